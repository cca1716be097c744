"""docs/features.md from the entries: `make features` calls every one, and writes it if all hold."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest
from features import (
    batch_parameters,
    chat_parameters,
    completion_parameters,
    decision_parameters,
    other_parameters,
    pooling_parameters,
    response_parameters,
    sampler_parameters,
    shared_parameters,
    structured_parameters,
)
from features.abilities import ABILITIES
from features.catalogue import CHAT, COMPLETIONS, Parameter, Status
from features.doors import open_doors
from features.service import asking

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/features.md"
PARAMETERS: Sequence[Parameter] = (
    *shared_parameters.PARAMETERS,
    *sampler_parameters.PARAMETERS,
    *structured_parameters.PARAMETERS,
    *chat_parameters.PARAMETERS,
    *completion_parameters.PARAMETERS,
    *decision_parameters.PARAMETERS,
    *response_parameters.PARAMETERS,
    *batch_parameters.PARAMETERS,
    *other_parameters.PARAMETERS,
    *pooling_parameters.PARAMETERS,
)

_HEAD = """# What can be asked for

Written by `make features`, which calls every entry with the bundled model (encoders: tiny ones of random numbers),
parameters through OpenAI's client on a running server, and writes nothing if one does not do what it says here. Do not
edit it: the entries are in `tests/features`, and `make test` calls them too.

Of parameters:

- **works**: it does what its origin says; the last column is what the call saw.
- **no effect**: it is taken, and nothing that it could say belongs into an answer.
- **400**: refused, with an error that names it. So is every name that is not here: nothing is taken and ignored.

null is the same as absent. Values of a wrong type or out of range are a 400.
"""


def main() -> None:
    """Prove every entry, then write the document."""
    with asking() as endpoints, open_doors(endpoints) as doors:
        for ability in ABILITIES:
            _hold(ability.name, partial(ability.prove, doors))
        for parameter in PARAMETERS:
            for endpoint in parameter.endpoints:
                what = f"{endpoint}: {parameter.name} ({parameter.status})"
                _hold(what, partial(parameter.prove, endpoints[endpoint]))
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"{DOCUMENT}: {len(ABILITIES)} abilities, {len(PARAMETERS)} parameters")


def _hold(what: str, prove: Callable[[], None]) -> None:
    try:
        prove()
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  the outermost handler
        traceback.print_exc()
        sys.exit(f"{what} does not hold: {type(error).__name__}: {error}")


def document() -> str:
    """The text of docs/features.md."""
    rows = sorted(PARAMETERS, key=lambda one: (_ORDER[one.status], one.source.split()[0] != "OpenAI", one.name))
    texts = [one for one in rows if _is_text(one)]
    merged = {one.name: [other for other in texts if other.name == one.name] for one in texts}
    lines = [_HEAD, "## What it can do", "", "| | ask for it with | what the call saw |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.how} | {one.seen} |" for one in ABILITIES]
    lines += ["", "## Parameters of chat and completions", ""]
    lines += ["| parameter | of | chat | completions | |", "|---|---|---|---|---|"]
    lines += [_row(name, entries) for name, entries in merged.items()]
    others = [one for one in rows if not _is_text(one)]
    if others:
        lines += [
            "",
            "## Parameters of the other endpoints",
            "",
            "| endpoint | parameter | of | | |",
            "|---|---|---|---|---|",
        ]
        lines += sorted(
            f"| {endpoint} | `{one.name}` | {', '.join(one.source.split())} | {one.status.value} | {one.seen} |"
            for one in others
            for endpoint in one.endpoints
        )
    return "\n".join(lines) + "\n"


def _is_text(parameter: Parameter) -> bool:
    return set(parameter.endpoints) <= {CHAT, COMPLETIONS}


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
