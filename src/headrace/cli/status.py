"""What goes to stderr beside the text: the model's load report, its thoughts, and a dim line after an answer."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import click

from headrace.cli.lines import one_line
from headrace.types import Chunk, FinishReason


@dataclass(frozen=True, slots=True)
class Status:
    """Status lines on stderr, dim on a terminal; none when quiet."""

    is_quiet: bool = False

    def say(self, line: str) -> None:
        """One status line."""
        if not self.is_quiet:
            click.secho(line, dim=True, err=True)

    def error(self, error: Exception) -> None:
        """One error line, where the program goes on."""
        click.echo(click.style("error: ", fg="red", bold=True) + one_line(str(error)), err=True)


@dataclass(slots=True)
class Timing:
    """Counts and times one answer's tokens."""

    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0
    num_tokens: int = 0
    finish_reason: FinishReason | None = None

    def add(self, chunk: Chunk) -> None:
        """Count a chunk that has just come."""
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        self.num_tokens += len(chunk.token_ids)
        self.finish_reason = chunk.finish_reason or self.finish_reason

    def line(self, max_tokens: int | None = None) -> str:
        """`123 tokens · 456 tokens/s · first after 7 ms`, and what cut the answer off."""
        if self.first is None:
            return "no tokens"
        parts = [f"{self.num_tokens:,} token{'' if self.num_tokens == 1 else 's'}"]
        decoded = self.num_tokens - 1  # the first comes with the prompt
        if decoded > 0 and self.last > self.first:
            parts.append(f"{_rounded(decoded / (self.last - self.first))} tokens/s")
        parts.append(f"first after {_rounded(1000 * (self.first - self.started))} ms")
        if self.finish_reason is FinishReason.LENGTH:
            is_limit = self.num_tokens == max_tokens
            parts.append("cut off there (--max-tokens sets the limit)" if is_limit else "the context is full")
        return " · ".join(parts)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class TextOut:
    """A model's text as it comes: an answer on stdout, or, as an aside, a thought on stderr, dim.

    On a terminal, its control characters are replaced.
    """

    def __init__(self, *, is_aside: bool = False) -> None:
        self._is_aside = is_aside
        self._ends_line = True
        self._controls = dict.fromkeys((*range(32), 127, *range(128, 160)), "�")
        self._controls.pop(ord("\n"))
        self._controls.pop(ord("\t"))
        if not (sys.stderr if is_aside else sys.stdout).isatty():
            self._controls.clear()

    def write(self, text: str) -> None:
        """Write and flush."""
        if not text:
            return
        self._ends_line = text.endswith("\n")
        text = text.translate(self._controls)
        if self._is_aside:
            click.secho(text, dim=True, nl=False, err=True)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def end_line(self) -> None:
        """Make sure that what follows begins a line."""
        if not self._ends_line:
            self.write("\n")
