"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from msgspec.json import encode

from headrace.errors import UnknownModel
from headrace.server.dialects.base import Answer, Incoming, JsonObject, Served


def list_models(_: Incoming, served: Served) -> Answer:
    """The list of models: the one that is served, and its adapters."""
    adapters = [_adapter(served, name, root) for name, root in served.adapters().items()]
    return Answer(body=encode({"object": "list", "data": [_model(served), *adapters]}))


def show_model(incoming: Incoming, served: Served) -> Answer:
    """One model or adapter.

    Raises:
        UnknownModel: it is not served.
    """
    name, adapters = incoming.path_params["model"], served.adapters()
    if name != served.name and name not in adapters:
        raise UnknownModel(f"The model {name!r} is not served here; {served.name!r} is", param="model")
    return Answer(body=encode(_model(served) if name == served.name else _adapter(served, name, adapters[name])))


def _model(served: Served) -> JsonObject:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "headrace",
        "max_model_len": served.max_context,
    }


def _adapter(served: Served, name: str, root: str) -> JsonObject:
    return _model(served) | {"id": name, "root": root, "parent": served.name}
