"""The sandbox in which chat templates run, with what templates from Hugging Face expect to find there.

Templates come with models and are not trusted: they reach nothing but their arguments, and the size of what they can
build is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 32 * 1024 * 1024
"""What a template may render or build by repetition, in characters or items."""


class RaisedByTemplateError(jinja2.TemplateError):
    """A template called raise_exception: it refuses the messages that it was given."""


class GenerationTag(Extension):
    """`{% generation %} … {% endgeneration %}` marks what the assistant wrote, for training; here it only renders."""

    tags = {"generation"}  # noqa: RUF012  (declared so by jinja2)

    def parse(self, parser: Parser) -> nodes.Node:
        """The marked part in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with bounded repetition, and the filters and functions of chat templates."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda pattern: now().strftime(pattern)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """`left * right` and `left ** right` within bounds."""
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError(f"{left!r} ** {right!r} is out of bounds")
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, (str, list, tuple)) and isinstance(count, int):
                _check_size(len(sequence) * count)
        return super().call_binop(context, operator, left, right)


def render(template: jinja2.Template, arguments: dict[str, Any]) -> str:
    """Render a template, at most MAX_CHARACTERS.

    Raises:
        SecurityError: the text grows beyond that.
    """
    parts: list[str] = []
    size = 0
    for part in template.generate(arguments):
        parts.append(part)
        size += len(part)
        _check_size(size)
    return "".join(parts)


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise SecurityError(f"it builds a text or list of {size:,} or more, at most {MAX_CHARACTERS:,} are allowed")


def _is_small(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= 64


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise RaisedByTemplateError(message)
