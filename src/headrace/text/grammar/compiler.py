"""Grammar texts → grammars that can mask: cached, limited in size and work, safe to call from several threads."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from llguidance import LLMatcher, LLParserLimits

from headrace.errors import RequestError
from headrace.text.grammar.ending import EndingFinder
from headrace.text.grammar.vocabulary import GrammarVocabulary

_MOST_KEPT = 64
_MOST_SECONDS = 4.0
"""Of CPU time, that what is kept took to compile: it takes about a MiB for each 20 to 80 ms, which nobody tells"""
_LONGEST_TEXT = 1_000_000
"""Characters; the schemas that people use are a hundredth of that"""
_STACK_BYTES = 512 * 2**20
"""Of the compiling thread, in address space: the library goes down a chain of references by recursion"""
_STACK_LOCK = threading.Lock()


_ROW, _STEP = 10_000, 50_000
"""Items of the parser at one place, and at all places together that a mask looks at. An object with many optional
members has several for each of them."""
_ROW_OF_WRITTEN, _MOST_OF_WRITTEN, _STEP_OF_WRITTEN = 400, 1_000, 20_000
"""Of a grammar that a client wrote, to which what there is to choose from is added, and what it comes to at most. In
`start: start start | "a"` a place has two items for each token before it, and takes their number to the third."""


def _limits(grammar: str, *, is_written: bool) -> LLParserLimits:
    """Of work, so that what explodes is refused within a second, and no step takes long."""
    row = min(_ROW_OF_WRITTEN + grammar.count("|") + grammar.count(","), _MOST_OF_WRITTEN)
    return LLParserLimits(
        initial_lexer_fuel=200_000,
        step_lexer_fuel=100_000,
        step_max_items=_STEP_OF_WRITTEN if is_written else _STEP,
        max_items_in_row=row if is_written else _ROW,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A compiled grammar for one model's tokens. Its matchers are templates: copy them, do not advance them."""

    vocabulary: GrammarVocabulary
    tokens: LLMatcher
    """Over the model's tokens"""
    spelling: LLMatcher
    """The same over bytes"""
    ending: tuple[int, ...]
    """A shortest output that was found, in tokens"""
    hints: tuple[bytes, ...]
    """Texts that satisfy its patterns, for `EndingFinder`"""
    text: str
    anew: Callable[[Grammar], Grammar] = field(repr=False)
    """The same grammar with empty caches: a matcher and its copies share one, and fail when it is full"""

    @property
    def num_needed(self) -> int:
        """Tokens without which there is no complete output."""
        return max(len(self.ending), 1)

    @property
    def is_spent(self) -> bool:
        """Whether the library gives up wherever a sequence is: the cache that all of them share is full."""
        return _is_spent(self.tokens) or _is_spent(self.spelling)


class Grammars:
    """The grammars of one model. What it has to know about the tokens is worked out when the first one is compiled."""

    def __init__(self, new_vocabulary: Callable[[], GrammarVocabulary]) -> None:
        self._new_vocabulary = new_vocabulary
        self._vocabulary: GrammarVocabulary | None = None
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._seconds: dict[str, float] = {}
        """That each of them took to compile"""
        self._lock = threading.Lock()
        self._compiling = threading.Lock()
        self._worker: ThreadPoolExecutor | None = None

    @property
    def vocabulary(self) -> GrammarVocabulary:
        """The model's, made when it is first asked for."""
        if self._vocabulary is None:
            self._vocabulary = self._new_vocabulary()
        return self._vocabulary

    def compile(self, text: str) -> Grammar:
        """The grammar of a text from `specification`; at once if it was compiled not long ago, else up to a second.

        Raises:
            RequestError: it is no grammar, takes too much work, or nothing satisfies it.
        """
        if (known := self._get(text)) is not None:
            return known
        with self._compiling:  # one at a time: no more than one core for it
            if (known := self._get(text)) is None:
                known, seconds = self._in_worker(text)
                with self._lock:
                    self._kept[text], self._seconds[text] = known, seconds
                    while len(self._kept) > 1 and self._are_too_many:
                        self._forget(next(iter(self._kept)))
        return known

    @property
    def _are_too_many(self) -> bool:
        return len(self._kept) > _MOST_KEPT or sum(self._seconds.values()) > _MOST_SECONDS

    def _forget(self, text: str) -> None:
        del self._kept[text], self._seconds[text]

    def _anew(self, spent: Grammar) -> Grammar:
        with self._lock:
            known = self._kept.get(spent.text)
            if known is not None and (known is spent or known.is_spent):
                self._forget(spent.text)
        return self.compile(spent.text)

    def _get(self, text: str) -> Grammar | None:
        with self._lock:
            if (known := self._kept.get(text)) is not None:
                self._kept.move_to_end(text)
            return known

    def _in_worker(self, text: str) -> tuple[Grammar, float]:
        """In the one thread that has stack enough."""
        if self._worker is not None:
            return self._worker.submit(self._timed, text).result()
        with _STACK_LOCK:  # the size is taken when a thread starts, and is the process's until then
            before = threading.stack_size(_STACK_BYTES)
            try:
                self._worker = ThreadPoolExecutor(1, "headrace-grammars")
                compiling = self._worker.submit(self._timed, text)
            finally:
                threading.stack_size(before)
        return compiling.result()

    def _timed(self, text: str) -> tuple[Grammar, float]:
        """With the seconds of CPU time that it took."""
        started = time.thread_time()
        return self._compile(text), time.thread_time() - started

    def _compile(self, text: str) -> Grammar:
        if len(text) > _LONGEST_TEXT:
            raise _wrong(f"it has {len(text):,} characters, more than {_LONGEST_TEXT:,}; make it smaller")
        vocabulary = self.vocabulary
        parts = json.loads(text)
        hints = tuple(hint.encode() for hint in parts["hints"])
        grammar = json.dumps(parts["grammar"], ensure_ascii=False)
        limits = _limits(grammar, is_written=parts["is_written"])
        spelling = _new_matcher(vocabulary.spelling, grammar, limits)
        ending = EndingFinder(vocabulary, hints).find(spelling, thorough=True, patient=True)
        if ending is None:
            raise _wrong("no output that satisfies it was found; make it simpler, or check that something satisfies it")
        return Grammar(
            vocabulary=vocabulary,
            tokens=_new_matcher(vocabulary.tokens, grammar, limits),
            spelling=spelling,
            ending=tuple(ending),
            hints=hints,
            text=text,
            anew=self._anew,
        )


def _is_spent(matcher: LLMatcher) -> bool:
    probe = matcher.deep_copy()
    probe.compute_bitmask()
    return probe.is_error()


def _new_matcher(tokenizer: object, text: str, limits: LLParserLimits) -> LLMatcher:
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=limits)  # type: ignore[arg-type]
    if matcher.is_error():
        raise _wrong(_one_line(matcher.get_error()))
    return matcher


def _one_line(error: str) -> str:
    """The library's message without its context."""
    if "patternProperty" in error:
        return "patternProperties with patterns that may match the same name cannot be enforced; make them exclusive"
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return " ".join(lines)[:400]


def _wrong(message: str) -> RequestError:
    return RequestError(f"structured output: {message}", param="structured")
