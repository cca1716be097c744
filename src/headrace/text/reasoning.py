"""The thought that a reasoning model writes before its answer: its markers, and how text is split at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.errors import HeadraceError
from headrace.text.tools.scan import num_held, skip_space

Render: TypeAlias = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]
"""(messages, template variables) to text; raises HeadraceError"""

_KNOWN = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
"""For templates that only take thoughts out of a conversation, or only describe them"""

_ANSWER_MARKS = ("<response>", "</response>")
"""Granite's, around the answer behind a thought"""

_THOUGHT = "HEADRACE-THINKS"
_ANSWER = "HEADRACE-ANSWERS"


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The markers of a thought, and how the template writes its end, spaces included."""

    open: str
    close: str
    closing: str
    answer_open: str = ""
    answer_close: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """All literals, in which special tokens may stand that have to stay in the text."""
        return (self.open, self.close, *((self.answer_open, self.answer_close) if self.answer_open else ()))

    def is_open_after(self, prompt: str) -> bool:
        """Whether a prompt ends inside a thought that its template has opened."""
        return prompt.rstrip().endswith(self.open)


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the thought's text."""

    text: str


def derive_reasoning(render: Render, sources: Sequence[str]) -> ReasoningFormat | None:
    """The markers that a chat template writes around a thought, or takes out of answers; None if it knows none."""
    turn = {"role": "assistant", "content": _ANSWER, "reasoning_content": _THOUGHT, "thinking": _THOUGHT}
    marks = {"answer_open": "", "answer_close": ""}
    if any(_ANSWER_MARKS[0] in source for source in sources):
        marks = {"answer_open": _ANSWER_MARKS[0], "answer_close": _ANSWER_MARKS[1]}
    try:
        text = render([{"role": "user", "content": "Why?"}, turn], {})
    except HeadraceError:
        text = ""
    before, found, rest = text.partition(_THOUGHT)
    closing, answered, _ = rest.partition(_ANSWER)
    if found and answered and closing.strip():
        open_ = before.rstrip().splitlines()[-1] if before.strip() else ""
        open_ = open_[max(open_.rfind("<"), open_.rfind("[")) :]
        if open_ and open_ != closing.strip() and len(closing.split()) == 1:
            return ReasoningFormat(open_, closing.strip(), closing, **marks)
    for open_, close in _KNOWN:
        if any(close in source for source in sources):
            return ReasoningFormat(open_, close, f"\n{close}\n\n", **marks)
    return None


class ThoughtSplitter:
    """Splits the text of one answer into its thought and the rest, however it is cut into pieces.

    Spaces around the markers belong to them. A thought is only looked for at the beginning.
    """

    def __init__(self, format_: ReasoningFormat, *, in_thought: bool) -> None:
        self._format = format_
        self._buffer = ""
        self._is_last = False
        self._answer_close = ""
        self._said: list[Thought | str] = []
        self._state = self._thought_start if in_thought else self._start
        self.in_thought = in_thought
        """Whether the text so far ends inside the thought, markers included"""

    def push(self, text: str) -> list[Thought | str]:
        """Pieces of the thought, and of what follows it, that are final after this text."""
        self._buffer += text
        while self._state():
            pass
        said, self._said = self._said, []
        return said

    def flush(self) -> list[Thought | str]:
        """The rest, when no more text comes."""
        self._is_last = True
        return self.push("")

    def _take(self, end: int) -> str:
        taken, self._buffer = self._buffer[:end], self._buffer[end:]
        return taken

    def _start(self) -> bool:
        at = skip_space(self._buffer, 0)
        rest = self._buffer[at:]
        if rest.startswith(self._format.open):
            self._take(at + len(self._format.open))
            self._state, self.in_thought = self._thought_start, True
            return True
        if self._format.open.startswith(rest) and not self._is_last:
            self.in_thought = bool(rest)
            return False
        self._state, self.in_thought = self._answer, False
        return True

    def _thought_start(self) -> bool:
        self._take(skip_space(self._buffer, 0))
        if not self._buffer:
            return False
        self._state = self._thought
        return True

    def _thought(self) -> bool:
        close = self._format.close
        end = self._buffer.find(close)
        held = 0 if end >= 0 or self._is_last else num_held(self._buffer, close)
        shown = self._buffer[: len(self._buffer) - held if end < 0 else end]
        shown = shown if self._is_last and end < 0 else shown.rstrip()
        if shown:
            self._said.append(Thought(self._take(len(shown))))
        if end < 0:
            return False
        self._take(end + len(close) - len(shown))
        self._state, self.in_thought = self._answer_start, False
        return True

    def _answer_start(self) -> bool:
        """Spaces behind the thought, and the mark that opens the answer where there is one."""
        self._take(skip_space(self._buffer, 0))
        mark = self._format.answer_open
        if mark and self._buffer.startswith(mark):
            self._take(len(mark))
            self._take(skip_space(self._buffer, 0))
            self._answer_close = self._format.answer_close
        elif not self._buffer or (mark.startswith(self._buffer) and not self._is_last):
            return False
        self._state = self._answer
        return True

    def _answer(self) -> bool:
        mark = self._answer_close
        held = 0 if self._is_last or not mark else num_held(self._buffer, mark)
        if mark and mark in self._buffer:
            self._buffer, held = self._buffer.replace(mark, ""), 0
        text = self._take(len(self._buffer) - held)
        if text:
            self._said.append(text)
        return False
