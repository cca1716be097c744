"""The sandbox in which chat templates run, with what templates from Hugging Face expect to find there.

Templates come with models and are not trusted: they reach nothing but their arguments, and what they take of time and
memory is bounded (`template_budget`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from headrace.text.template_budget import MAX_CHARACTERS, MAX_SECONDS, Budget, check_size

_BUDGET: ContextVar[Budget] = ContextVar("headrace_template_budget")
"""Of the rendering in progress. A context's variable, as filters and `concat` are called without anything of it."""
_MOST_SECONDS: ContextVar[float] = ContextVar("headrace_template_seconds", default=MAX_SECONDS)
"""Of each rendering in a context"""

_ATTRIBUTES_OF_DICTS = frozenset(dir(dict))
_COUNTED = "headrace counted"
"""A test, of anything: no name that a template could write, and cheaper than a call, which the sandbox looks at"""

_TEXT_FILTERS = ("center", "indent", "replace", "wordwrap", "format", "striptags")
"""Filters of a text that can give a larger one, or take long"""
_ITEM_FILTERS = (
    *("groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique"),
)
"""Filters that go through items by themselves"""
_MOST_DIGITS = 1000
_MOST_ITEMS = 1_000_000
_MOST_SUMMED = 1000
_BETWEEN_NUMBERS_AND_BYTES = ("from_bytes", "to_bytes")


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
    """jinja2's sandbox within a budget, and the filters and functions of chat templates."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        del self.globals["lipsum"]
        for name in ("pprint", "urlize"):  # slow, and of no use to a chat
            del self.filters[name]
        self.filters["tojson"] = _to_json
        for name in _TEXT_FILTERS:
            self.filters[name] = _bounded_text(name, self.filters[name])
        for name, bounded in (("join", _bounded_join), ("sum", _bounded_sum), ("batch", _bounded_rows)):
            self.filters[name] = bounded(self.filters[name])
        self.filters["slice"] = _bounded_rows(self.filters["slice"])
        self.filters["int"] = _bounded_int(self.filters["int"])
        for name in _ITEM_FILTERS:
            self.filters[name] = _bounded_items(self.filters[name])
        self.tests[_COUNTED] = _count_turn
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda pattern: now().strftime(pattern)

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """The globals of a template, as a plain dict: each rendering copies them, and jinja2's own ChainMap copies
        slowly."""
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As jinja2's, which looks for an item only when an AttributeError has said that there is no attribute: for
        every field of every message, where most of a rendering's time would go."""
        if type(obj) is dict and attribute in obj and attribute not in _ATTRIBUTES_OF_DICTS:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def weighed(self, value: Any) -> Any:
        """A list, tuple or dict that a template has just made."""
        budget = _BUDGET.get(None)
        if budget is not None:
            budget.weigh(value)
        return value

    def joined(self, *parts: Any) -> str:
        """`a ~ b ~ c`."""
        budget = _budget()
        budget.build(sum(map(budget.weigh, parts)))
        return "".join(map(str, parts))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What a macro, or a block that is assigned to a variable, has written."""
        written = list(parts)
        budget = _BUDGET.get(None)
        if budget is not None:
            budget.tick()
            budget.build(sum(map(len, written)))
        return "".join(written)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  as jinja2 has it
        """Call something, within bounds."""
        budget = _budget()
        budget.tick()
        method = getattr(__obj, "__wrapped__", __obj)  # as the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes) and method.__name__ in ("encode", "decode"):
            budget.code(owner, args, kwargs)
        elif isinstance(owner, str):
            if method.__name__ == "join" and args:
                args = (list(_counted(args[0])), *args[1:])  # what comes out of a filter can be gone through once
            budget.method(owner, method.__name__, args, kwargs)
        elif isinstance(owner, bytes) or (owner is not None and method.__name__ in _BETWEEN_NUMBERS_AND_BYTES):
            raise SecurityError(f"it calls {method.__name__} of bytes or of a number")
        found = super().call(__context, __obj, *args, **kwargs)
        if isinstance(found, list | tuple | dict | Namespace):
            budget.weigh(found)
        return found

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Operations, within bounds."""
        budget = _budget()
        budget.operate(operator, left, right)
        made = super().call_binop(context, operator, left, right)
        if operator == "+" and isinstance(made, list | tuple):
            budget.know(made, budget.weigh(left) + budget.weigh(right))
        return made

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        _meter(source)
        source.set_environment(self)
        return super()._generate(source, name, filename, defer_init)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give templates that are rendered in this context so much CPU time at most, each."""
    token = _MOST_SECONDS.set(seconds)
    try:
        yield
    finally:
        _MOST_SECONDS.reset(token)


def render(template: jinja2.Template, arguments: dict[str, Any], seconds: float = MAX_SECONDS) -> str:
    """Render a template, at most MAX_CHARACTERS, in at most `seconds` of CPU time.

    Raises:
        SecurityError: it goes beyond that.
    """
    parts: list[str] = []
    size = 0
    budget = Budget(min(seconds, _MOST_SECONDS.get()))
    token = _BUDGET.set(budget)
    try:
        for part in template.generate(arguments):
            parts.append(part)
            size += len(part)
            check_size(size)
            budget.tick()
    finally:
        _BUDGET.reset(token)
    return "".join(parts)


def _budget() -> Budget:
    budget = _BUDGET.get(None)
    if budget is None:  # jinja2 folds constants as it compiles, unless that fails: a few would fill the memory
        raise SecurityError("outside of a rendering there is no budget")
    return budget


def _meter(template: nodes.Template) -> None:
    """Put a test that counts into its loops, and calls of `weighed` and `joined` around what it makes."""
    for loop in template.find_all(nodes.For):
        counted = nodes.Test(nodes.Const(True), _COUNTED, [], [], None, None, lineno=loop.lineno)
        if loop.test is None:
            loop.body.insert(0, nodes.ExprStmt(counted, lineno=loop.lineno))
        else:  # turns that it sorts out are turns too
            loop.test = nodes.And(counted, loop.test, lineno=loop.lineno)
    _wrap(template)


def _wrap(node: nodes.Node) -> None:
    """Put `weighed` and `joined` around what builds something, below a node."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_wrapped(each) for each in value]
        elif isinstance(value, nodes.Node):
            setattr(node, name, _wrapped(value))


def _wrapped(node: Any) -> Any:
    if not isinstance(node, nodes.Node):
        return node
    _wrap(node)
    if isinstance(node, nodes.Concat):
        return _call("joined", node.nodes, node.lineno)
    is_made = isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load")
    if not is_made or not any(True for _ in node.find_all((nodes.Name, nodes.Getattr))):
        return node
    return _call("weighed", [node], node.lineno)


@jinja2.pass_context
def _count_turn(_context: Context, _value: object) -> bool:
    """A turn of a loop. It takes the context, so that jinja2 does not take it for a constant."""
    _budget().tick()
    return True


def _call(name: str, arguments: list[Any], lineno: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None, lineno=lineno)


def _split(arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """What a filter is applied to, and its own arguments; some get the environment first."""
    if arguments and isinstance(arguments[0], jinja2.Environment | Context | nodes.EvalContext):
        arguments = arguments[1:]
    return (arguments[0], arguments[1:]) if arguments else ("", ())


def _bounded_text(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(apply)
    def bounded(*arguments: Any, **options: Any) -> Any:
        value, rest = _split(arguments)
        _budget().method(str(value), name, rest, options)
        return apply(*arguments, **options)

    return bounded


def _bounded_int(apply: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(apply)
    def bounded(value: Any, default: int = 0, base: int = 10) -> Any:
        if isinstance(value, str) and len(value) > _MOST_DIGITS:
            raise SecurityError(f"it makes a number of more than {_MOST_DIGITS:,} digits")
        return apply(value, default, base)

    return bounded


def _bounded_join(apply: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(apply)
    def bounded(context: Any, value: Any, d: Any = "", attribute: Any = None) -> Any:
        items = list(_counted(value))
        _budget().method(str(d), "join", (items,), {})
        return apply(context, items, d, attribute)

    return bounded


def _bounded_sum(apply: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(apply)
    def bounded(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
        items = list(_counted(iterable))
        if not isinstance(start, int | float) and len(items) > _MOST_SUMMED:
            raise SecurityError(f"it adds up more than {_MOST_SUMMED:,} lists")
        return apply(environment, items, attribute, start)

    return bounded


def _bounded_rows(apply: Callable[..., Any]) -> Callable[..., Any]:
    in_steps = _bounded_items(apply)

    @wraps(apply)
    def bounded(*arguments: Any, **options: Any) -> Any:
        given = [*_split(arguments)[1], *options.values()]
        number = max((abs(one) for one in given[:1] if isinstance(one, int)), default=1)
        budget = _budget()
        budget.build(number * (1 + sum(map(budget.weigh, given[1:]))))
        return in_steps(*arguments, **options)

    return bounded


def _bounded_items(apply: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(apply)
    def bounded(*arguments: Any, **options: Any) -> Any:
        at = len(arguments) - len(_split(arguments)[1]) - 1
        items = arguments[at]
        return apply(*arguments[:at], _counted(items) if items else items, *arguments[at + 1 :], **options)

    return bounded


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    """The items, each of which is a step."""
    budget = _budget()
    for number, item in enumerate(items):
        if number == _MOST_ITEMS:
            raise SecurityError(f"it goes through more than {_MOST_ITEMS:,} items")
        budget.tick()
        yield item


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, without the HTML escapes of jinja2's own filter."""
    budget = _budget()
    width = indent if isinstance(indent, int) else len(indent or "")
    between = sum(map(len, separators or ()))
    budget.build(budget.weigh(value) * (1 + min(abs(width), MAX_CHARACTERS) + between))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise RaisedByTemplateError(message)
