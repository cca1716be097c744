"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.json import encode

from headrace.errors import UnknownModel
from headrace.server.dialects.base import JsonObject, Served


def render_models(served: Served, _path: Mapping[str, str]) -> bytes:
    """The list of models: the one that is served."""
    return encode({"object": "list", "data": [_model(served)]})


def render_model(served: Served, path: Mapping[str, str]) -> bytes:
    """One model.

    Raises:
        UnknownModel: it is not the one that is served.
    """
    if path["model"] != served.name:
        raise UnknownModel(f"The model {path['model']!r} is not served here; {served.name!r} is", param="model")
    return encode(_model(served))


def _model(served: Served) -> JsonObject:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "headrace",
        "max_model_len": served.max_context,
    }
