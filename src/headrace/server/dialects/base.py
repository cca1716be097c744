"""What a dialect is: parse a request into a `Call`, render what the engine says into bytes. No I/O, no Starlette."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from headrace.model_card import ModelCard
from headrace.sampling_params import SamplingParams
from headrace.server.errors import Failure
from headrace.server.settings import MAX_JSON_VALUES
from headrace.types import Chunk, RequestOutput, Times, TokenLogprobs, Usage

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM
    from headrace.text.infill import Infill

JsonObject: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A conversation, to be rendered by the model's chat template. Content is a string or parts of text."""

    messages: Sequence[JsonObject]
    tools: Sequence[JsonObject] | None = None
    """[{"type": "function", "function": {"name", "description", "parameters"}}]"""
    tool_choice: str | JsonObject | None = None
    """none, auto, required or {"type": "function", "function": {"name"}}"""
    parallel_tool_calls: bool = True
    documents: Sequence[JsonObject] = ()
    chat_template: str | None = None
    """Jinja text to use instead of the model's own, where the server allows it."""
    reasoning_effort: str | None = None
    """See text.thinking.EFFORTS"""
    chat_template_kwargs: JsonObject = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    """Let the tokenizer add its own BOS/EOS around what the template wrote (templates usually write them)."""
    context: Sequence[int] = ()
    """Token ids that the conversation goes on from: they come first, and the template's own BOS is left out"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """Text or token ids, as they are, or both in turn: then only a text in front gets special tokens."""

    prompt: str | Sequence[int | str]
    add_special_tokens: bool = True
    context: Sequence[int] = ()
    """Token ids that the text goes on from; then no special tokens are added"""


@dataclass(frozen=True, slots=True)
class Truncation:
    """Which part of too long a prompt is kept; only what a request asks for."""

    max_tokens: int
    """-1 is what leaves room for the output"""
    keeps_start: bool = False
    """The first tokens instead of the last"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What an answer says about the server that gave it."""

    name: str
    """The model's name in requests and answers."""
    version: str
    fingerprint: str
    """Stable for one model, configuration and version."""
    created: int
    """Unix time at which the server started."""
    max_context: int
    defaults: SamplingParams
    """From the model's generation_config; parse starts from it."""
    token_text: Callable[[int], str]
    """A single token as text; pieces of a character become U+FFFD."""
    adapters: Callable[[], Mapping[str, str]] = dict
    """Names of the adapters that can be asked for as models now, and where they came from."""
    card: ModelCard = field(default_factory=ModelCard)
    """What the model is"""
    special_ids: Callable[[], frozenset[int]] = frozenset
    """Tokens that are marks, not text"""
    infill: Infill | None = None
    """The tokens to fill in the middle with; None for a model without them"""
    max_json_values: int = MAX_JSON_VALUES
    """Of JSON that stands in a text of a body, as of the body itself: see `json_values`"""
    token_bytes: Callable[[int], bytes | None]
    """A single token's exact bytes; None when the model has no tokenizer that knows."""


class Progress(Protocol):
    """What is known of a prompt while it is answered, and after: AsyncStream and RequestOutput both fit."""

    @property
    def prompt(self) -> str | None:
        """Its text, if it came as text or the call needs it."""
        ...

    @property
    def prompt_token_ids(self) -> list[int]:
        """As the engine got them."""
        ...

    @property
    def prompt_logprobs(self) -> list[TokenLogprobs | None] | None:
        """Known with the first chunk, when the call asked for them."""
        ...

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        ...

    @property
    def times(self) -> Times | None:
        """When it came, and its tokens so far; None where nobody measures."""
        ...


class Renderer(Protocol):
    """Renders one answer, either as a stream (begin, chunks …, end or failure) or as a whole. Keeps state: use once.

    Prompt i of a call with n completions each gives completions i·n … i·n + n - 1.
    """

    stream_media_type: str

    def begin(self, progress: Sequence[Progress]) -> bytes:
        """The stream's first bytes, sent together with the first chunks."""
        ...

    def chunks(self, prompt_index: int, chunks: Sequence[Chunk], progress: Sequence[Progress]) -> bytes:
        """What one step gave for one prompt; may be empty. `progress` has all prompts of the call."""
        ...

    def end(self, progress: Sequence[Progress]) -> bytes:
        """The stream's last bytes."""
        ...

    def failure(self, failure: Failure) -> bytes:
        """The stream's last bytes when it fails after its first byte."""
        ...

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes | Answer:
        """An answer that is not streamed: its body, or all of it where that is not JSON."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A parsed request: what to run, and how to render what comes out."""

    model: str | None
    """None for the model itself, in dialects that do not name one"""
    prompts: Sequence[ChatPrompt | TextPrompt]
    params: SamplingParams
    stream: bool
    renderer: Callable[[Served], Renderer]
    param_names: Mapping[str, str] = field(default_factory=dict)
    """What the dialect calls the engine's parameters ("prompt", "max_tokens" …), for errors; where it differs."""
    needs_prompt_text: bool = False
    """The renderer shows the prompt: token ids have to be decoded."""
    prediction: str | None = None
    """Text that the output is likely to repeat; it makes that faster, and changes nothing."""
    truncation: Truncation | None = None
    max_context: int | None = None
    """Tokens of prompt and output together: a prompt that leaves no room is refused, an output that gets there ends"""
    stream_interval: int = 1
    """Tokens of an event of the stream, at least; the first and the last one are sent at once."""
    priority: int = 0
    """Lower runs earlier."""
    cache_salt: str | None = None
    """Prefixes are shared only between calls of the same salt."""
    settle: Callable[[], Awaitable[None]] | None = None
    """What has to be done before the end of the answer is sent: the renderer keeps it, and a disk takes its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """A call that is answered at once and runs on, whether the client stays or not; its renderer keeps the outcome.

    The renderer gets `whole`, or `failure` if it fails or is cancelled.
    """

    call: Call
    answer: Answer
    """Given once the call is queued"""
    started: Callable[[Callable[[], object]], None]
    """Called when it is queued, and told how to cancel it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A parsed request that is answered whole, by one call: embeddings, scores and the like."""

    model: str | None
    """None for what is not about a model"""
    ask: Callable[[AsyncLLM], Awaitable[Any]]
    """The call; cancelled when the client leaves. Raises RequestError, EngineError."""
    render: Callable[[Any, Served], bytes | Answer]
    """The body for what `ask` gave, or all of the answer."""
    param_names: Mapping[str, str] = field(default_factory=dict)
    """As in Call"""
    media_type: str = "application/json"
    status: int = 200
    ask_adapter: Callable[[AsyncLLM, str], Awaitable[Any]] | None = None
    """The call to an adapter of that name; None for what only the model itself answers"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that is there already."""

    body: bytes = b""
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """An HTTP request that has been read."""

    method: str
    path: str
    path_params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """By their names in lower case; of a header that came twice the last"""
    body: bytes = b""
    tenant: str = "everybody"
    """Whose key came with it"""
    request_id: str = ""
    """Drawn by the server, for logs and for dialects that show it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and a path of a dialect, and what they mean. `parse` raises RequestError, nothing else."""

    path: str
    """As Starlette writes them: "/v1/models/{model:path}" """
    parse: Callable[[Incoming, Served], Call | Later | Inquiry | Answer]
    method: str = "POST"
    """GET answers HEAD too"""
    claims: Callable[[Incoming], bool] | None = None
    """Whether the request is meant for this dialect, where several have the same path: the first that says so gets it,
    else the first that has no such function, else the last. Of GET it sees no body."""
    media_types: Sequence[str] | None = ("application/json",)
    """What a body may be declared as; None: anything, or nothing. Of application/json a browser asks first whether a
    page of another origin may send it; other bodies with a foreign Origin are refused."""
    max_body_bytes: int | None = None
    """Instead of the server's own limit"""
    json_size: Callable[[Incoming], int] | None = None
    """How many bytes of a body are its JSON, which come first; None: all. Raises RequestError, nothing else."""
    is_open: bool = False
    """Answers without a key: health, and what holds no data (the page)"""
    is_admin: bool = False
    """Changes the server: takes the admin key"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One API: its routes, and the shape of its errors (JSON)."""

    name: str
    routes: Sequence[Route]
    render_failure: Callable[[Failure], bytes]
    statuses: Mapping[int, int] = field(default_factory=dict)
    """HTTP statuses of errors that are others in this API"""
    request_id_header: str | None = None
    """Of every answer; None shows no request ids"""
