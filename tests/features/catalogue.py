"""What a request can ask for: one entry for each parameter, with a call that shows what becomes of it.

An entry is a claim and its proof. `works` has a probe, which calls a running server and looks at the answer;
`no_effect` sends values that must change nothing; `refused` sends values that must get a 400 naming the parameter.
The tables of docs/features.md are these entries (features/table.py); they can only be written when all proofs hold.

To add a parameter: one entry in the file of its endpoint (features/*_parameters.py), then `make features`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from features.asking import Asking


class Status(StrEnum):
    """What becomes of a parameter, in the words of the table."""

    WORKS = "works"
    NO_EFFECT = "no effect"
    REFUSED = "400"


CHAT = "chat"
COMPLETIONS = "completions"
BOTH = (CHAT, COMPLETIONS)
DECISIONS = "decisions"
RESPONSES, BATCHES = "responses", "batches"
EMBEDDINGS, RERANK, SCORE, CLASSIFY = "embeddings", "rerank", "score", "classify"
LOAD_ADAPTER = "load_lora_adapter"
UNLOAD_ADAPTER = "unload_lora_adapter"

Probe = Callable[[Asking], None]


@dataclass(frozen=True)
class PerEndpoint:
    """A value that endpoints write differently."""

    at: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of one or more endpoints; `name` is its path in the body, such as stream_options.include_usage."""

    name: str
    source: str
    """Whose parameter it is: OpenAI, vLLM, llama.cpp …; spaces between several"""
    status: Status
    seen: str
    """What the probe saw, why there is no effect, or why it is refused"""
    prove: Probe
    endpoints: Sequence[str] = BOTH
    takes: Sequence[str] = ()
    """What is taken besides: suffixes of the name as features/openapi.py writes them ("=auto", "[function].strict")"""
    refuses: Sequence[str] = ()
    """What of a parameter that works is refused all the same"""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Fields without which the parameter makes no sense (top_logprobs needs logprobs); see PerEndpoint"""

    def needed(self, endpoint: str) -> dict[str, Any]:
        """`needs` at one endpoint."""
        return {
            name: value.at[endpoint] if isinstance(value, PerEndpoint) else value for name, value in self.needs.items()
        }

    def allows(self, suffix: str) -> bool:
        """Whether the value at `name + suffix` must be taken; else it must be refused with a 400."""
        if suffix in self.takes:
            return True
        if self.status is Status.REFUSED or any(suffix.startswith(refused) for refused in self.refuses):
            return False
        return suffix in ("", "=true", "=false")


def works(name: str, prove: Probe, seen: str, *, source: str = "OpenAI vLLM", **rest: Any) -> Parameter:
    """It does what its origin says; `prove` fails if it does not."""
    return Parameter(name=name, source=source, status=Status.WORKS, seen=seen, prove=prove, **rest)


def no_effect(name: str, *values: Any, why: str, source: str = "OpenAI vLLM", **rest: Any) -> Parameter:
    """It is taken, and nothing in the answer can depend on it; `why` says what makes that right."""

    def prove(ask: Asking) -> None:
        plain = ask.content()
        for value in values:
            assert ask.content(**_body(name, value)) == plain, value

    return Parameter(name=name, source=source, status=Status.NO_EFFECT, seen=why, prove=prove, **rest)


def refused(name: str, *values: Any, why: str, source: str = "OpenAI vLLM", **rest: Any) -> Parameter:
    """Each of `values` gets a 400 that names it."""

    def prove(ask: Asking) -> None:
        for value in values:
            ask.refusal(name, **_body(name, value))

    return Parameter(name=name, source=source, status=Status.REFUSED, seen=why, prove=prove, **rest)


def _body(name: str, value: Any) -> dict[str, Any]:
    """`value` at a path such as stream_options.include_usage."""
    for key in reversed(name.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def find(parameters: Sequence[Parameter], endpoint: str, label: str) -> tuple[Parameter, str] | None:
    """The entry with the longest name that `label` begins with, and the rest of the label; None if there is none."""
    best: tuple[Parameter, str] | None = None
    for one in parameters:
        if endpoint not in one.endpoints or not label.startswith(one.name):
            continue
        suffix = label[len(one.name) :]
        if (not suffix or suffix[0] in ".=[") and (best is None or len(suffix) < len(best[1])):
            best = one, suffix
    return best
