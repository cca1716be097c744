"""What restricts the tokens of a request: worked out when it comes, and made for each of its sequences."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from headrace.errors import RequestError
from headrace.sampling_params import SamplingParams
from headrace.structured_output import StructuredOutput
from headrace.text.after import AfterThought, ThoughtMarks
from headrace.text.answer import Reading
from headrace.text.tokenizer import Tokenizer
from headrace.types import Request, Thinking

if TYPE_CHECKING:
    from headrace.text.grammar.compiler import Grammars
    from headrace.text.grammar.constraint import GrammarConstraint


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

    @property
    def _grammars(self) -> Grammars:
        from headrace.text.grammar.compiler import Grammars
        from headrace.text.grammar.vocabulary import GrammarVocabulary

        with self._lock:
            if self._made is None:
                self._made = Grammars(lambda: GrammarVocabulary(self._tokenizer, self._vocab_size, self._eos_token_ids))
            return self._made

    def compile(self, params: SamplingParams) -> None:
        """Work out what `params.structured` needs, so that `grammar` takes no time.

        Raises:
            RequestError: it cannot be enforced, is malformed, or takes too much work.
        """
        if params.structured is not None:
            self._grammars.compile(_grammar_text(params.structured))

    def grammar(self, params: SamplingParams, thinking: Thinking | None, max_tokens: int) -> str | None:
        """The grammar of a request as text.

        Raises:
            RequestError: as for `compile`; or `max_tokens` is too few for any output, and how many are needed.
        """
        if params.structured is None:
            return None
        text = _grammar_text(params.structured)
        needed = self._grammars.compile(text).num_needed
        if thinking is not None and thinking.is_open:
            needed += len(self._marks(thinking).closing_ids)
        if needed > max_tokens:
            raise RequestError(
                f"max_tokens is {max_tokens:,}, and the shortest output with this structure that was found needs"
                f" {needed:,} tokens; give at least {needed:,}",
                param="max_tokens",
            )
        return text

    def thinking(self, params: SamplingParams, reading: Reading | None) -> Thinking | None:
        """How the thought before a structured answer is told from it; None where there is none to tell.

        Raises:
            RequestError: the model's answers are a sequence of messages, in which the structure's place is not known.
        """
        if params.structured is None or reading is None:
            return None
        if reading.format.channels is not None:
            raise RequestError(
                "structured output is not supported for models that answer in channels; leave it out",
                param="structured",
            )
        marks = reading.format.reasoning
        if marks is None:
            return None
        behind = marks.closing.partition(marks.close)[2]
        return Thinking(
            open=marks.open, close=marks.close, closing=marks.closing, behind=behind, is_open=reading.in_thought
        )

    def new_constraint(self, request: Request) -> AfterThought | GrammarConstraint | None:
        """A fresh constraint for one sequence of a request; None if nothing restricts it."""
        if request.grammar is None:
            return None
        from headrace.text.grammar.constraint import GrammarConstraint

        grammar = self._grammars.compile(request.grammar)
        inner = GrammarConstraint(grammar)
        if request.thinking is None:
            return inner
        return AfterThought(
            inner,
            self._marks(request.thinking),
            is_open=request.thinking.is_open,
            num_needed=grammar.num_needed,
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


def _grammar_text(structured: StructuredOutput) -> str:
    from headrace.text.grammar.specification import grammar_text

    return grammar_text(structured)
