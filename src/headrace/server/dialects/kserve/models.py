"""What the server and its models say of themselves: health, metadata, the repository's index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.json import encode

from headrace.errors import Overloaded
from headrace.server.allowed import adapter_of
from headrace.server.dialects.base import Answer, Incoming, Inquiry, JsonObject, Served
from headrace.server.dialects.decode import decode
from headrace.server.dialects.kserve.parse import VERSION, model_of
from headrace.server.errors import PathNotFound

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_OPTIONAL = (("sampling_parameters", "BYTES"), ("stream", "BOOL"), ("exclude_input_in_output", "BOOL"))


class IndexFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v2/repository/index, which may be missing."""

    ready: bool | None = None
    """Only models that are ready; all are"""


def show_live(_: Incoming, __: Served) -> Answer:
    """200: the process answers, whatever the engine does."""
    return Answer(body=encode({"live": True}))


def show_ready(_: Incoming, __: Served) -> Inquiry:
    """200 when the engine runs requests; else 503 and why not."""
    return Inquiry(model=None, ask=_ready, render=lambda _, __: encode({"ready": True}))


def show_model_ready(incoming: Incoming, _: Served) -> Inquiry:
    """The same of a model.

    Raises:
        UnknownModel: it has no such version.
    """
    name = model_of(incoming)
    return Inquiry(
        model=name,
        ask=_ready,
        ask_adapter=lambda llm, _: _ready(llm),
        render=lambda _, __: encode({"name": name, "ready": True}),
    )


def refuse(incoming: Incoming, _: Served) -> Answer:
    """Triton's own accounts of a model. Raises PathNotFound."""
    raise PathNotFound(
        f"GET {incoming.path} is not implemented here; GET /v2/models/NAME has the model's tensors, /metrics the counts"
    )


def show_server(_: Incoming, served: Served) -> Answer:
    """GET /v2."""
    extensions = ["binary_tensor_data", "generate", "model_repository"]
    return Answer(body=encode({"name": "headrace", "version": served.version, "extensions": extensions}))


def show_model(incoming: Incoming, served: Served) -> Answer:
    """A model's tensors. Inputs other than text_input may be left out.

    Raises:
        UnknownModel: it is not served.
    """
    name = model_of(incoming)
    adapter_of(name, served)
    embedding = _tensor("embedding", "FP32", [-1, served.card.embedding_size])
    return Answer(
        body=encode(
            {
                "name": name,
                "versions": [VERSION],
                "platform": "headrace",
                "inputs": [
                    _tensor("text_input", "BYTES", [-1]),
                    *(_tensor(name, kind, [1]) for name, kind in _OPTIONAL if served.card.generates),
                ],
                "outputs": [*([_tensor("text_output", "BYTES", [-1])] if served.card.generates else []), embedding],
            }
        )
    )


def list_models(incoming: Incoming, served: Served) -> Answer:
    """POST /v2/repository/index."""
    if incoming.body:
        decode(incoming.body, IndexFields, {})
    names = (served.name, *served.adapters())
    return Answer(
        body=encode([{"name": name, "version": VERSION, "state": "READY", "reason": ""} for name in names])
    )  # fmt: skip


async def _ready(llm: AsyncLLM) -> None:
    if llm.trouble is not None:
        raise Overloaded(llm.trouble)


def _tensor(name: str, datatype: str, shape: list[int]) -> JsonObject:
    return {"name": name, "datatype": datatype, "shape": shape}
