"""The request types of Ollama's dialect, strict. null means the same as absent everywhere.

Fields marked "no effect" are accepted because they change nothing that a client can see in the answer. Fields that
Ollama has and that are not here are in `UNSUPPORTED`, with the values that ask for nothing; any other name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from headrace.server.dialects.decode import Unsupported, Words


class Options(Struct, kw_only=True, forbid_unknown_fields=True):
    """`options`. What a request leaves out is the model's recommendation, else Ollama's default."""

    num_predict: int | None = None
    """Most tokens of the output; -1 and -2: until the end"""
    num_ctx: int | None = None
    """Most tokens of prompt and output; what is above the server's context asks for nothing more"""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    """How many of the last tokens the penalties see: 0 none, -1 all"""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    num_keep: int | None = None  # no effect: what is kept of a prompt that is cut, and none is
    num_thread: int | None = None  # no effect, as the seven below: how a model is run is said when the server starts
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_batch: int | None = None
    low_vram: bool | None = None
    numa: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    draft_num_predict: int | None = None  # no effect: the output never depends on guesses
    logits_all: bool | None = None  # no effect on the output

    tfs_z: float | None = None  # 1 only: tail-free sampling is not implemented
    penalize_newline: bool | None = None  # true only: line breaks are penalised like all tokens
    f16_kv: bool | None = None  # true only: the type of the KV cache is said when the server starts
    vocab_only: bool | None = None  # false only
    embedding_only: bool | None = None  # false only


class BaseFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What all requests about a model take."""

    model: str
    keep_alive: float | str | None = None  # no effect: the model stays; a request to unload it is refused
    options: Options | None = None


class GeneratingFields(BaseFields, kw_only=True, forbid_unknown_fields=True):
    """What /api/generate and /api/chat share."""

    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    """"json", or a JSON schema"""
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class GenerateFields(GeneratingFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    """What comes behind the answer, for models with tokens to fill in the middle with"""
    system: str | None = None
    raw: bool | None = None
    """The prompt as it is, without the chat template"""
    context: list[int] | None = None
    """Token ids to go on from, as an earlier answer gave them"""


class CalledFunction(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a tool call of the conversation called."""

    name: str
    arguments: dict[str, Any] | None = None
    index: int | None = None
    description: str | None = None  # no effect


class CalledTool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool call of the conversation, as an answer gave it."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] = "function"


class Message(Struct, kw_only=True, forbid_unknown_fields=True):
    """A message of the conversation."""

    role: str
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: list[Any] | None = None


class FunctionDefinition(Struct, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema"""
    strict: bool | None = None
    """false: arguments may be any JSON object; else they keep to the schema"""


class Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool."""

    function: FunctionDefinition
    type: Literal["function"] = "function"


class ChatFields(GeneratingFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/chat."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class EmbedFields(BaseFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/embed. What `options` say of sampling has no effect: nothing is drawn."""

    input: str | list[str] | None = None
    truncate: bool | None = None
    """Cut longer inputs to `options.num_ctx`, or to what the model takes; without it they are refused"""
    dimensions: int | None = None


class EmbeddingsFields(BaseFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/embeddings, the older path."""

    prompt: str | None = None


class ShowFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/show."""

    model: str | None = None
    name: str | None = None
    """The older name of `model`"""
    verbose: bool | None = None  # no effect: tensors and vocabulary are not shown


class PullFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/pull."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    insecure: bool | None = None  # no effect, as the two below: nothing is downloaded
    username: str | None = None
    password: str | None = None


class NameFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of DELETE /api/delete."""

    model: str | None = None
    name: str | None = None


Fields: TypeAlias = BaseFields | ShowFields | PullFields | NameFields

_GENERATING: Unsupported = {"truncate": (False,), "shift": (False,), "_debug_render_only": (False,)}
UNSUPPORTED: Mapping[type[Struct], Unsupported] = {
    GenerateFields: {
        **_GENERATING,
        "template": ("",),
        "images": ([],),
        "width": (0,),
        "height": (0,),
        "steps": (0,),
    },
    ChatFields: _GENERATING,
    ShowFields: {"system": ("",), "template": ("",), "options": ({},)},
}
"""Known fields that are refused, with the values that ask for nothing"""

WORDS = Words(
    instead={
        "truncate": "leave it out: a prompt that is too long is refused, never cut",
        "shift": "leave it out: an output ends where the context is full, and says so",
        "template": "leave it out, and start the server with --chat-template FILE (Jinja, not Go's templates)",
        "images": "leave them out: this model reads text only",
        "_debug_render_only": "leave it out",
    },
    elsewhere={
        **dict.fromkeys(("messages", "tools"), "/api/chat"),
        **dict.fromkeys(("prompt", "system", "raw", "context", "suffix", "template"), "/api/generate"),
        **dict.fromkeys(("input", "dimensions"), "/api/embed"),
    },
)
