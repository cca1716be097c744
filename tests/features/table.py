"""docs/features.md from the entries: `make features` calls every one, and writes it if all hold."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from features import (
    chat_parameters,
    completion_parameters,
    sampler_parameters,
    shared_parameters,
    structured_parameters,
)
from features.catalogue import CHAT, COMPLETIONS, Parameter, Status
from features.service import asking

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/features.md"
PARAMETERS: Sequence[Parameter] = (
    *shared_parameters.PARAMETERS,
    *sampler_parameters.PARAMETERS,
    *structured_parameters.PARAMETERS,
    *chat_parameters.PARAMETERS,
    *completion_parameters.PARAMETERS,
)

_HEAD = """# What a request can ask for

Written by `make features`, which calls every entry on a running server with the bundled model, and writes nothing if
one does not do what it says here. Do not edit it: the entries are in `tests/features`, and `make test` calls them too.

- **works**: it does what its origin says; the last column is what the call saw.
- **no effect**: it is taken, and nothing that it could say belongs into an answer.
- **400**: refused, with an error that names it. So is every name that is not here: nothing is taken and ignored.

null is the same as absent. Values of a wrong type or out of range are a 400.
"""


def main() -> None:
    """Prove every entry, then write the document."""
    with asking() as endpoints:
        for parameter in PARAMETERS:
            for endpoint in parameter.endpoints:
                try:
                    parameter.prove(endpoints[endpoint])
                except Exception as error:  # noqa: BLE001  the outermost handler
                    sys.exit(f"{endpoint}: {parameter.name} ({parameter.status}): {type(error).__name__}: {error}")
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"{DOCUMENT}: {len(PARAMETERS)} parameters")


def document() -> str:
    """The text of docs/features.md."""
    rows = sorted(PARAMETERS, key=lambda one: (_ORDER[one.status], one.source.split()[0] != "OpenAI", one.name))
    names = sorted({one.name for one in PARAMETERS})
    merged = {name: [one for one in rows if one.name == name] for name in dict.fromkeys(one.name for one in rows)}
    assert len(merged) == len(names)
    lines = [_HEAD, "## Chat and completions", "", "| parameter | of | chat | completions | |", "|---|---|---|---|---|"]
    lines += [_row(name, entries) for name, entries in merged.items()]
    return "\n".join(lines) + "\n"


_ORDER = {status: order for order, status in enumerate(Status)}


def _row(name: str, entries: Sequence[Parameter]) -> str:
    status = {endpoint: one.status.value for one in entries for endpoint in one.endpoints}
    cells = (
        f"`{name}`",
        ", ".join(dict.fromkeys(source for one in entries for source in one.source.split())),
        status.get(CHAT, "–"),
        status.get(COMPLETIONS, "–"),
        "; ".join(dict.fromkeys(_seen(entries))),
    )
    return f"| {' | '.join(cells)} |"


def _seen(entries: Sequence[Parameter]) -> Iterable[str]:
    for one in entries:
        alone = len(entries) > 1 and len(one.endpoints) == 1
        yield f"{one.endpoints[0]}: {one.seen}" if alone else one.seen


if __name__ == "__main__":
    main()
