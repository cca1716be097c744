"""docs/api.md from the server's routes: `make api` writes it. Fields come from the types that bodies are decoded to.

Which type that is, each route shows itself: its `parse` is called with an empty object while decoding is watched.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from headrace import AsyncLLM
from headrace.server.app import create_app
from headrace.server.dialects import decode as decoding
from headrace.server.dialects.base import Dialect, Incoming, Route

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/api.md"
TITLES = {
    "openai": "OpenAI, and vLLM's paths beside it",
    "anthropic": "Anthropic",
    "ollama": "Ollama",
    "tgi": "Text Generation Inference",
    "kserve": "KServe and Triton",
    "llama_server": "llama-server",
    "headrace": "headrace's own",
    "page": "The page",
}
HEAD = """# Every path and field

Written by `make api` from the routes and the types that bodies are decoded to; do not edit it. A field that is neither
listed nor refused here is unknown, and a 400. What each parameter of OpenAI's and vLLM's chat and completions does,
with a call that proves it, is in [features](features.md). *open*: answers without a key; *admin*: needs the admin key
where keys are set.
"""


@dataclass(slots=True)
class Body:
    """What a route takes: a type, and the known names that it refuses."""

    kind: Any
    refused: dict[str, tuple[Any, ...]] = field(default_factory=dict)


@contextmanager
def watching(seen: list[Body]) -> Iterator[None]:
    """Note what bodies are decoded to."""
    refuse, convert = decoding._refuse_unsupported, msgspec.convert

    def refused(fields: dict[str, Any], known: Mapping[str, tuple[Any, ...]], *rest: Any) -> None:
        seen.append(Body(None, dict(known)))
        refuse(fields, known, *rest)

    def converted(value: Any, kind: Any, **options: Any) -> Any:
        if seen and seen[-1].kind is None:
            seen[-1].kind = kind
        return convert(value, kind, **options)

    decoding._refuse_unsupported = refused
    msgspec.convert = converted
    try:
        yield
    finally:
        decoding._refuse_unsupported, msgspec.convert = refuse, convert


def body_of(route: Route, served: Any) -> Body | None:
    """The route's body, or None for one without."""
    if route.method in ("GET", "HEAD"):
        return None
    seen: list[Body] = []
    params = dict.fromkeys(re.findall(r"{(\w+)", route.path), "x")
    incoming = Incoming(
        method=route.method,
        path=route.path,
        path_params=params,
        headers={"content-type": "application/json", "anthropic-version": "2023-06-01"},
        body=b"{}",
    )
    with watching(seen), suppress(Exception):
        route.parse(incoming, served)
    return next((body for body in seen if body.kind is not None), None)


def document(dialects: tuple[Dialect, ...], served: Any) -> str:
    """The text of docs/api.md."""
    return "\n".join([HEAD, *(line for dialect in dialects for line in section(dialect, served))]).rstrip() + "\n"


def section(dialect: Dialect, served: Any) -> Iterator[str]:
    """A dialect's routes; routes of the same method, parse and body are one."""
    yield f"## {TITLES.get(dialect.name, dialect.name)}\n"
    bodies: dict[str, Body] = {}
    yield "| | path | body | |"
    yield "|---|---|---|---|"
    for route in dialect.routes:
        body = body_of(route, served)
        link = ""
        if body is not None and body.kind is dict:  # the parts that are read are checked by OpenAI's own parser
            link = "as [OpenAI's](#openai-chatfields)"
        elif body is not None:
            name = body.kind.__name__
            bodies[name] = body
            link = f"[{name}](#{anchor(dialect, name)})"
        notes = [word for word, holds in (("open", route.is_open), ("admin", route.is_admin)) if holds]
        yield f"| {route.method} | `{route.path}` | {link} | {', '.join(notes)} |"
    yield ""
    written: set[str] = set()
    for name, body in bodies.items():
        yield from table(dialect, name, body, written)


def anchor(dialect: Dialect, name: str) -> str:
    """Of a type's heading."""
    return f"{dialect.name}-{name}".lower()


def table(dialect: Dialect, name: str, body: Body, written: set[str]) -> Iterator[str]:
    """A type's fields, and those of the types in them that have not been written yet."""
    if name in written:
        return
    written.add(name)
    yield f"### {dialect.name} {name}\n"
    if text := first_paragraph(body.kind.__doc__):
        yield text + "\n"
    nested: dict[str, Any] = {}
    if issubclass(body.kind, msgspec.Struct):
        words = field_words(body.kind)
        hints = get_type_hints(body.kind)
        yield "| field | type | default | |"
        yield "|---|---|---|---|"
        for each in msgspec.structs.fields(body.kind):
            shown = type_text(hints[each.name], nested)
            yield f"| `{each.encode_name}` | {shown} | {default_of(each)} | {words.get(each.name, '')} |"
        yield ""
    if body.refused:
        plain = sorted(name for name, neutral in body.refused.items() if not neutral)
        neutral = sorted((name, values) for name, values in body.refused.items() if values)
        parts = [f"`{name}`" for name in plain]
        parts += [f"`{name}` (but for {', '.join(map(code, values))})" for name, values in neutral]
        yield f"Refused by name: {', '.join(parts)}.\n"
    for inner, kind in nested.items():
        yield from table(dialect, inner, Body(kind), written)


def code(value: Any) -> str:
    """A value as JSON, in code's letters."""
    return f"`{msgspec.json.encode(value).decode()}`"


def default_of(each: msgspec.structs.FieldInfo) -> str:
    """What a field is when it is left out."""
    if each.required:
        return "required"
    value = each.default_factory() if each.default is msgspec.NODEFAULT else each.default
    if value is None or value is msgspec.UNSET:
        return ""
    with suppress(TypeError):
        return code(value)
    return ""


def type_text(kind: Any, nested: dict[str, Any]) -> str:
    """A type in JSON's words."""
    if kind is None or kind is type(None):
        return ""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        nested[kind.__name__] = kind
        return kind.__name__
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, (type_text(each, nested) for each in arguments))))
    if origin is Literal:
        return " or ".join(map(code, arguments))
    if origin is not None and str(origin).endswith("Annotated"):
        return type_text(arguments[0], nested)
    if hasattr(kind, "__metadata__"):
        return type_text(kind.__origin__, nested)
    if origin in (list, tuple) or getattr(origin, "__name__", "") == "Sequence":
        return f"list of {type_text(arguments[0], nested)}" if arguments else "list"
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return "object"
    if kind in _NAMES:
        return _NAMES[kind]
    return "" if kind is msgspec.UnsetType else getattr(kind, "__name__", str(kind))


_NAMES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "list",
    Any: "anything",
}


def field_words(kind: type) -> dict[str, str]:
    """The docstring below each field, of a type and those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, msgspec.Struct) or base is msgspec.Struct:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for before, line in zip(tree.body, tree.body[1:], strict=False):
            is_text = isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_text:
                found[before.target.id] = " ".join(str(line.value.value).split()).replace("|", "\\|")
    return found


def first_paragraph(text: str | None) -> str:
    """Of a docstring, on one line."""
    return " ".join((text or "").split("\n\n")[0].split())


def current() -> str:
    """The document of the code as it is."""
    llm = AsyncLLM("stories")
    service = create_app(llm, "stories")._service
    return document(service.routes.dialects, service.served)


if __name__ == "__main__":
    DOCUMENT.write_text(current(), encoding="utf-8")
