"""vLLM's structural tags as Lark: free text, and after each trigger one of the tags that begin with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.errors import RequestError
from headrace.text.grammar.regex import spelled

_MOST_TAGS = 200


def as_lark(tag: Any, inline_json: Callable[[Any], str]) -> tuple[str, list[str]]:
    """A structural tag {"structures": [{"begin", "schema", "end"}, …], "triggers": […]} as Lark, and its literals.

    `inline_json` writes a schema as a Lark expression.

    Raises:
        RequestError: it is malformed; the message has the path.
    """
    structures, triggers = _checked(tag)
    by_trigger: dict[str, list[dict[str, Any]]] = {}
    for at, each in enumerate(structures):
        trigger = max((text for text in triggers if each["begin"].startswith(text)), key=len, default=None)
        if trigger is None:
            raise _wrong(f"structures[{at}].begin", f"{each['begin']!r} begins with none of the triggers")
        by_trigger.setdefault(trigger, []).append(each)
    unused = [text for text in triggers if text not in by_trigger]
    if unused:
        raise _wrong("triggers", f"{unused[0]!r} begins no structure")
    lines: list[str] = []
    for number, (trigger, tags) in enumerate(by_trigger.items()):
        options = [
            " ".join((*_literal(each["begin"][len(trigger) :]), inline_json(each["schema"]), *_literal(each["end"])))
            for each in tags
        ]
        lines.append(f"h{number}[lazy]: /(?s:.*){spelled(trigger)}/")
        lines.append(f"t{number}: h{number} ({' | '.join(options)})")
    anywhere = "|".join(spelled(trigger) for trigger in by_trigger)
    return (
        "\n".join(
            (
                f"start: ({' | '.join(f't{number}' for number in range(len(by_trigger)))})* rest",
                "rest: REST",
                f"REST: /(?s:.*)/ & ~/(?s:.*)({anywhere})(?s:.*)/",
                *lines,
            )
        )
        + "\n"
    ), [each["end"] for each in structures]


def _checked(tag: Any) -> tuple[list[dict[str, Any]], list[str]]:
    if not isinstance(tag, dict):
        raise _wrong("", "expected an object")
    unknown = tag.keys() - {"type", "structures", "triggers"}
    if unknown or tag.get("type", "structural_tag") != "structural_tag":
        raise _wrong(min(unknown, default="type"), "expected type structural_tag, structures and triggers")
    structures, triggers = tag.get("structures"), tag.get("triggers")
    if not isinstance(triggers, list) or not triggers or not all(isinstance(t, str) and t for t in triggers):
        raise _wrong("triggers", "expected a list of texts, none of them empty")
    if not isinstance(structures, list) or not 1 <= len(structures) <= _MOST_TAGS:
        raise _wrong("structures", f"expected a list of 1 to {_MOST_TAGS}")
    for at, each in enumerate(structures):
        if not isinstance(each, dict) or each.keys() != {"begin", "schema", "end"}:
            raise _wrong(f"structures[{at}]", "expected begin, schema and end")
        if not isinstance(each["begin"], str) or not isinstance(each["end"], str):
            raise _wrong(f"structures[{at}]", "expected texts for begin and end")
    return structures, triggers


def _literal(text: str) -> list[str]:
    return [f"/{spelled(text)}/"] if text else []


def _wrong(path: str, what: str) -> RequestError:
    where = f"structural_tag.{path}" if path else "structural_tag"
    return RequestError(f"structured output: {where}: {what}", param="structured")
