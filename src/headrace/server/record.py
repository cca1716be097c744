"""What is known of one HTTP request, gathered on its way: for its log line, its spans, and its key's counts.

    arrival ── receive ── submitted ── queue ── scheduled ── prefill ── first token ── decode ── end

Never what was asked or answered: no text and no token ids.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Call, ChatPrompt, Incoming, Inquiry
from headrace.server.errors import Failure

if TYPE_CHECKING:
    from headrace.supervise.lives import Restarts

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+@-]{1,128}")
_INQUIRIES = {"embed": "embeddings"}
_QUIET = ("headrace", "page")
CLIENT_LEFT = 499
"""What logs and metrics say of a request whose client left before its answer's end, as nginx does"""


@dataclass(frozen=True, slots=True)
class Interruption:
    """A death of the engine that a request lived through. Times in nanoseconds since 1970."""

    died_at: int
    gave_at: int | None
    """When the next engine gave something, to this request or another; None if none had before its end"""
    reason: str | None


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request. Times are those of time.perf_counter(), in seconds."""

    id: str
    method: str
    path: str
    headers: Mapping[str, str]
    """By their names in lower case; the trace it belongs to is taken from them, and nothing is logged"""
    arrival: float = field(default_factory=time.perf_counter)
    arrival_time: int = field(default_factory=time.time_ns)
    """The same moment on the wall's clock, in nanoseconds since 1970"""
    tenant: str = "everybody"
    """Whose key came with it"""
    dialect: str = ""
    route: str | None = None
    """As the dialect writes it; None for a path that is nobody's"""
    operation: str | None = None
    """chat, text_completion, embeddings …: OpenTelemetry's names; None for what is not about a model"""
    model: str | None = None
    is_streamed: bool = False
    params: SamplingParams | None = None
    submitted: float | None = None
    """When the engine got its first prompt"""
    seconds_queued: float = 0.0
    """Waited after that, in the queue and in the engine, until it first ran"""
    first_token: float | None = None
    end: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's, those that came from the prefix cache"""
    completion_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    """Of its completions, in the order in which they ended"""
    interruption: Interruption | None = None
    """The last death of the engine while it was open"""
    status: int | None = None
    """HTTP status that was sent"""
    failure: Failure | None = None
    """What the client was told, if it failed; also after a status of 200, in the middle of a stream"""
    client_left: bool = False
    is_attended: bool = True
    """A client waits for it; else it is a part that runs on by itself, or a line of a batch"""

    @classmethod
    def of(cls, incoming: Incoming) -> Self:
        """Of a request that has just come, before its body has."""
        return cls(
            id=incoming.request_id or request_id(incoming.headers),
            method=incoming.method,
            path=incoming.path,
            headers=incoming.headers,
            tenant=incoming.tenant,
        )

    def asks(self, meant: Call | Inquiry, model: str) -> None:
        """It is for this model."""
        self.model, self.operation = model, _operation_of(meant, self.route or "")
        if isinstance(meant, Call):
            self.is_streamed, self.params = meant.stream, meant.params

    def beside(self) -> Self:
        """A record of its own for what goes on without the client."""
        return replace(self, is_attended=False, finish_reasons=[])

    def has_ended(self, restarts: Restarts) -> None:
        """Now. `restarts` says whether the engine died meanwhile."""
        self.end = time.perf_counter()
        if self.submitted is not None and restarts.died_at > self.on_the_wall(self.submitted):
            gave_at = restarts.gave_at if restarts.gave_at > restarts.died_at else None
            self.interruption = Interruption(restarts.died_at, gave_at, restarts.reason)

    def on_the_wall(self, moment: float) -> int:
        """A moment of time.perf_counter() in nanoseconds since 1970."""
        return self.arrival_time + round((moment - self.arrival) * 1e9)

    @property
    def is_quiet(self) -> bool:
        """Whether it is a health check, a scrape or the built-in page's, which would drown all else in logs."""
        return self.dialect in _QUIET

    @property
    def final_status(self) -> int:
        """What became of it: the status that was sent, or CLIENT_LEFT."""
        return CLIENT_LEFT if self.client_left or self.status is None else self.status

    @property
    def scheduled(self) -> float | None:
        """When it first ran, once that is known."""
        if self.submitted is None or self.first_token is None:
            return None
        return min(self.submitted + self.seconds_queued, self.first_token)

    @property
    def seconds(self) -> float:
        """From its arrival to its end."""
        return (time.perf_counter() if self.end is None else self.end) - self.arrival


def request_id(headers: Mapping[str, str]) -> str:
    """The client's x-request-id if a header and a log line can carry it, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _operation_of(meant: Call | Inquiry, route: str) -> str:
    """What a request asks of the model, by the names of OpenTelemetry's conventions where they have one."""
    if isinstance(meant, Call):
        return "chat" if any(isinstance(prompt, ChatPrompt) for prompt in meant.prompts) else "text_completion"
    name = route.rsplit("/", 1)[-1]
    return _INQUIRIES.get(name, name)
