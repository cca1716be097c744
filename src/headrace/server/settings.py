"""What a server allows and how long it waits; frozen, and the same for all dialects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_JSON_VALUES = 1_000_000
"""The default of `ServerSettings.max_json_values`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Every limit of a server."""

    max_body_bytes: int = 32 * 2**20
    """Longer request bodies are refused with 413."""
    max_bodies_bytes: int = 512 * 2**20
    """Of request bodies that are in memory at a time, without the first 64 KiB of each; a body for which there is no
    room is refused with 503."""
    max_json_values: int = MAX_JSON_VALUES
    """Of a body's JSON; lists, objects and keys count for four. More are refused with 413: making objects of a body
    holds up all streams, for a twentieth of a second at this limit."""
    max_completions: int = 1024
    """Of a request, of all of its prompts together: each is a stream here and a sequence in the engine."""
    max_answer_bytes: int = 128 * 2**20
    """Of memory that a request's whole answer takes until it is sent, or the log-probabilities of its prompts, whole or
    streamed: estimated at 128 bytes a token and 500 a log-probability. A request for more is refused with 400; where it
    leaves out max_tokens, once its answer has come to that."""
    max_logprobs: int = 20
    """Most likely tokens of a position that a request can ask for; -1 is any number. 20 is the limit of OpenAI's API,
    and vLLM's default: the whole vocabulary at each position of a long prompt would fill any memory."""
    trust_request_chat_template: bool = False
    """Requests may bring their own chat template, which is code (in a sandbox)."""
    adapter_folder: Path | None = None
    """Requests may load the adapters that lie below it; None: none."""
    api_keys: tuple[str, ...] = ()
    """Keys that open all routes but admin's; none here and in the file: everybody may ask."""
    api_key_file: Path | None = None
    """More of them; see `server.access`. Read again when it changes."""
    admin_keys: tuple[str, ...] = ()
    """Keys that open all routes."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser ("https://example.org"; "*" is all)."""
    allowed_hosts: tuple[str, ...] | None = None
    """Names that requests may call the server by, besides localhost and addresses (see `server.origins`); None: any."""
    tls_certificate: Path | None = None
    """PEM file; with `tls_key` the server speaks HTTPS."""
    tls_key: Path | None = None
    max_waiting_requests: int = 2048
    """HTTP requests that wait for the engine; more are refused with 429."""
    max_waiting_tokens: int = 4_000_000
    """Of their prompts and expected outputs. With keys a tenant's part of the queue is at most what it leaves free."""
    priority_across_tenants: bool = False
    """A request's priority counts against everybody's; else only against its tenant's own (see `server.admission`)."""
    max_connections: int = 4096
    """More are refused with 503, and closed."""
    max_head_bytes: int = 64 * 2**10
    """Of a request's line and headers; more are refused with 431."""
    max_headers: int = 100
    """Of a request; more are refused with 431."""
    head_seconds: float = 30.0
    """In which a request's head has to come, once its connection stands or it has begun; 408 after that."""
    body_seconds: float = 300.0
    """In which its body has to come; 408 after that."""
    body_idle_seconds: float = 30.0
    """How long nothing of the body may come; 408 after that."""
    write_seconds: float = 60.0
    """A client that reads nothing for so long, while an answer waits to be read, is cut off."""
    max_unread_tokens: int = 16_384
    """Tokens that may be ahead of a stream's reader (with their log-probabilities each counts for one more); a reader
    that is further behind is cut off with an error. Generation does not wait for readers."""
    request_seconds: float | None = None
    """How long a request may take to its last byte (504 after that); its header x-request-timeout may ask for less."""
    drain_seconds: float = 0.0
    """How long requests are served as ever after the signal to stop, while /health/ready says 503 already: until load
    balancers have seen it."""
    tgi_metrics: bool = False
    """/metrics has TGI's names too."""
    otlp_endpoint: str | None = None
    """URL of the collector that gets traces; needs the extra `otel`. None: there are none."""
    shutdown_seconds: float = 30.0
    """How long open requests may take to finish after the signal to stop."""
    store_folder: Path | None = None
    """Where files and batches are kept; None: nowhere, and both are refused. One server has it at a time."""
    store_is_optional: bool = False
    """A folder that cannot be had leaves the server without files and batches; else it does not start."""
    keep_responses: bool = False
    """Responses are kept there too, and outlive the server; else they are in memory only."""
    max_stored_responses: int = 10_000
    """The least recently used ones beyond it are forgotten, those of the tenant with the most first."""
    max_stored_response_bytes: int = 256 * 2**20
    """Likewise, of all of them together."""
    max_stored_days: int = 30
    """What is kept is forgotten after so many days."""
    max_stored_files: int = 1000
    """Uploads beyond it are refused."""
    max_stored_file_bytes: int = 4 * 2**30
    """Likewise, of all files together."""
    max_file_bytes: int = 128 * 2**20
    """Of one upload, which is in memory while it comes."""
    max_batches: int = 100
    """That have not ended; more are refused."""
    max_batch_lines: int = 50_000
    """A batch of more fails."""
    batch_lines_at_once: int = 8
    """Lines of batches, of all together, that are given to the engine at a time."""

    @property
    def has_keys(self) -> bool:
        """Whether there are tenants, who share."""
        return bool(self.api_keys or self.api_key_file or self.admin_keys)
