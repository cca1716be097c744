"""What restricts the tokens of a request: worked out when it comes, and made for each of its sequences."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from headrace.errors import RequestError
from headrace.sampling_params import SamplingParams
from headrace.structured_output import StructuredOutput
from headrace.text.after import AfterThought, ThoughtMarks
from headrace.text.answer import AnswerFormat, Reading
from headrace.text.open_ended import OpenEnded
from headrace.text.thinking import thinking_of
from headrace.text.tokenizer import Tokenizer
from headrace.types import Request, Thinking

if TYPE_CHECKING:
    from headrace.text.grammar.compiler import Grammars
    from headrace.text.grammar.constraint import GrammarConstraint

_MOST_TEXTS = 64

_Asked: TypeAlias = "tuple[StructuredOutput | None, tuple[AnswerFormat, str] | None]"
"""All that the text of a grammar depends on: a structure, and the model's format with what tools are asked for"""


class Restrictions:
    """The grammars of one model. Safe to call from several threads.

    What grammars take is imported with the first of them: a fifth of the time that starting takes in Python.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._lock = threading.Lock()
        self._made: Grammars | None = None
        self._texts: OrderedDict[_Asked, str] = OrderedDict()
        """Of grammars that were compiled not long ago: writing one takes milliseconds where there are many tools"""

    @property
    def _grammars(self) -> Grammars:
        from headrace.text.grammar.compiler import Grammars
        from headrace.text.grammar.vocabulary import GrammarVocabulary

        with self._lock:
            if self._made is None:
                self._made = Grammars(lambda: GrammarVocabulary(self._tokenizer, self._vocab_size, self._eos_token_ids))
            return self._made

    def compile(self, params: SamplingParams, reading: Reading | None = None) -> None:
        """Work out what a request needs, so that the other methods take no time.

        Raises:
            RequestError: it cannot be enforced, is malformed, or takes too much work.
        """
        self._grammar_text(params, reading)
        if (thinking := self.thinking(params, reading)) is not None:
            self._marks(thinking)

    def grammar(
        self, params: SamplingParams, thinking: Thinking | None, max_tokens: int, reading: Reading | None = None
    ) -> str | None:
        """The grammar of what follows the thought, as text; None if that is free.

        Raises:
            RequestError: as for `compile`; or `max_tokens` is too few for any output, and how many are needed.
        """
        text = self._grammar_text(params, reading)
        if text is None:
            return None
        needed = self._grammars.compile(text).num_needed
        if thinking is not None and thinking.is_open:
            needed += len(self._marks(thinking).closing_ids)
        if needed > max_tokens and not (reading is not None and reading.is_open_ended and params.structured is None):
            raise RequestError(
                f"max_tokens is {max_tokens:,}, and the shortest output with this structure that was found needs"
                f" {needed:,} tokens; give at least {needed:,}",
                param="max_tokens",
            )
        return text

    def _grammar_text(self, params: SamplingParams, reading: Reading | None) -> str | None:
        """The text of the request's grammar, compiled; None if there is none."""
        asked = None if reading is None or reading.asked is None else (reading.format, reading.asked.key)
        if asked is None and params.structured is None:
            return None
        if asked is not None and params.beam_width is not None:
            raise RequestError("tools cannot be used with beam search; leave one of them out", param="tools")
        key = (params.structured, asked)
        with self._lock:
            if (known := self._texts.get(key)) is not None:
                self._texts.move_to_end(key)
                return known
        text = self._write(params.structured, reading)
        self._grammars.compile(text)
        with self._lock:
            self._texts[key] = text
            while len(self._texts) > _MOST_TEXTS:
                self._texts.popitem(last=False)
        return text

    def _write(self, structured: StructuredOutput | None, reading: Reading | None) -> str:
        answer = None if structured is None else _structured_text(structured)
        if reading is None or reading.asked is None:
            assert answer is not None
            return answer
        from headrace.text.tools.grammar import tools_grammar

        return tools_grammar(reading.format, reading.asked, self._grammars.vocabulary.special_names, answer)

    def thinking(self, params: SamplingParams, reading: Reading | None) -> Thinking | None:
        """How the thought is told from what follows it; None where nothing depends on that.

        Raises:
            RequestError: a budget for a thought, and the model does not think.
        """
        most = params.thinking_token_budget
        if reading is None or not reading.format.has_thoughts:
            if most is not None:
                raise RequestError(
                    "thinking_token_budget is for chats with a model that thinks, as far as its chat template shows;"
                    " leave it out",
                    param="thinking_token_budget",
                )
            return None
        most = reading.budget if most is None else most
        if most is None and params.structured is None and reading.asked is None:
            return None
        return thinking_of(reading, most)

    def new_constraint(self, request: Request) -> AfterThought | GrammarConstraint | OpenEnded | None:
        """A fresh constraint for one sequence of a request; None if nothing restricts it."""
        inner: GrammarConstraint | OpenEnded | None = None
        num_needed: int | None = 0
        if request.grammar is not None:
            from headrace.text.grammar.constraint import GrammarConstraint

            grammar = self._grammars.compile(request.grammar)
            inner, num_needed = GrammarConstraint(grammar), grammar.num_needed
            if request.is_open_ended:
                inner, num_needed = OpenEnded(inner), None
        if request.thinking is None:
            return inner
        return AfterThought(
            inner,
            self._marks(request.thinking),
            is_open=request.thinking.is_open,
            num_needed=num_needed,
            most=request.thinking.most,
        )

    def _marks(self, thinking: Thinking) -> ThoughtMarks:
        vocabulary = self._grammars.vocabulary
        return ThoughtMarks(
            close=thinking.close.encode(),
            open_ids=vocabulary.encode_marks(thinking.open),
            behind_ids=vocabulary.encode_marks(thinking.behind),
            closing_ids=vocabulary.encode_marks(thinking.closing),
            written=vocabulary.written,
            end_ids=vocabulary.eos_token_ids,
        )


def _structured_text(structured: StructuredOutput) -> str:
    from headrace.text.grammar.specification import grammar_text

    return grammar_text(structured)
