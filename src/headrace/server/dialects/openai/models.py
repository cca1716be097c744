"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from msgspec.json import encode

from headrace.server.allowed import adapter_of
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
    adapter = adapter_of(incoming.path_params["model"], served)
    shown = _model(served) if adapter is None else _adapter(served, adapter, served.adapters()[adapter])
    return Answer(body=encode(shown))


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
