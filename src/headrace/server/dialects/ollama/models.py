"""Ollama's paths about models. There is one, with its adapters; what would change that is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.json import encode

from headrace.errors import UnknownModel, UnsupportedParameter
from headrace.server.dialects.base import Answer, Incoming, JsonObject, Served
from headrace.server.dialects.ollama.decode import decode, listed_name, served_model
from headrace.server.dialects.ollama.options import effective_defaults
from headrace.server.dialects.ollama.render import NDJSON, created_at
from headrace.server.dialects.ollama.requests import NameFields, PullFields, ShowFields

API_VERSION = "0.12.11"
"""The release of Ollama whose API this is: clients look at it before they use what is newer"""
_NEVER = "9999-12-31T23:59:59Z"
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))

INSTEAD = {
    "create": "no model was created: this server serves the model that it was started with; start one with"
    " `headrace serve MODEL`, where MODEL is a folder, a GGUF file or a name on the hub",
    "copy": "no model was copied: a served model has one name, which `headrace serve MODEL --name NAME` gives it",
    "push": "nothing was pushed: this server has no registry; upload the model's files with the hub's own tools",
    "blobs": "nothing was stored: this server takes no files; start one with `headrace serve PATH` instead",
}


def refused(what: str) -> Callable[[Incoming, Served], Answer]:
    """A path that answers with what to do instead."""

    def parse(_: Incoming, __: Served) -> Answer:
        raise UnsupportedParameter(f"{what} is not supported here: {INSTEAD[what]}")

    return parse


def running(_: Incoming, __: Served) -> Answer:
    """GET /, by which clients see whether there is a server."""
    return Answer(body=b"Ollama is running", media_type="text/plain; charset=utf-8")


def show_version(_: Incoming, served: Served) -> Answer:
    """GET /api/version."""
    return Answer(body=encode({"version": API_VERSION, "headrace": served.version}))


def list_models(_: Incoming, served: Served) -> Answer:
    """GET /api/tags."""
    return Answer(body=encode({"models": [_summary(name, served) for name in _names(served)]}))


def list_running(_: Incoming, served: Served) -> Answer:
    """GET /api/ps: the same, as all of it is loaded."""
    loaded = {"expires_at": _NEVER, "size_vram": 0, "context_length": served.max_context}
    return Answer(body=encode({"models": [_summary(name, served) | loaded for name in _names(served)]}))


def show_model(incoming: Incoming, served: Served) -> Answer:
    """POST /api/show.

    Raises:
        RequestError: of any kind.
    """
    fields = decode(incoming, ShowFields)
    name = served_model(fields.model or fields.name, served)
    parameters = [f"{key:<30} {value}" for key, value in effective_defaults(served).items()]
    return Answer(
        body=encode(
            {
                "modelfile": "\n".join([f"FROM {name}", *(f"PARAMETER {line}" for line in parameters), ""]),
                "parameters": "\n".join(parameters),
                "template": served.card.chat_template or "",
                "details": _details(name, served),
                "model_info": _info(served),
                "capabilities": _capabilities(served),
                "modified_at": _modified(served),
            }
        )
    )


def pull(incoming: Incoming, served: Served) -> Answer:
    """POST /api/pull: what is served is there already.

    Raises:
        UnknownModel: it is another model.
    """
    fields = decode(incoming, PullFields)
    name = fields.model or fields.name
    try:
        served_model(name, served)
    except UnknownModel:
        raise UnknownModel(
            f"model '{name}' is not served here and was not pulled: start a server with `headrace serve MODEL`, which"
            f" downloads it; this one serves '{served.name}'",
            param="model",
        ) from None
    return Answer(
        body=encode({"status": "success"}) + b"\n", media_type="application/json" if fields.stream is False else NDJSON
    )


def delete(incoming: Incoming, served: Served) -> Answer:
    """DELETE /api/delete: refused, and nothing is on disk that could go.

    Raises:
        UnknownModel: there is no such model.
        UnsupportedParameter: there is.
    """
    fields = decode(incoming, NameFields)
    name = fields.model or fields.name
    served_model(name, served)
    raise UnsupportedParameter(
        f"delete is not supported here: model '{name}' was not deleted, requests never change files; stop the server"
        " and delete the model's files",
        param="model",
    )


def find_blob(incoming: Incoming, _: Served) -> Answer:
    """HEAD /api/blobs/{digest}.

    Raises:
        UnknownModel: always.
    """
    raise UnknownModel(f"there is no blob {incoming.path_params['digest']}: this server stores no files")


def _names(served: Served) -> list[str]:
    return [served.name, *served.adapters()]


def _summary(name: str, served: Served) -> JsonObject:
    listed = listed_name(name)
    return {
        "name": listed,
        "model": listed,
        "modified_at": _modified(served),
        "size": served.card.weight_bytes,
        "digest": hashlib.sha256(f"{served.fingerprint} {name}".encode()).hexdigest(),
        "details": _details(name, served),
    }


def _details(name: str, served: Served) -> JsonObject:
    card = served.card
    return {
        "parent_model": "" if name == served.name else listed_name(served.name),
        "format": card.file_format,
        "family": _architecture(served),
        "families": [_architecture(served)],
        "parameter_size": _short(card.num_parameters),
        "quantization_level": card.weight_formats.partition(",")[0].upper(),
    }


def _info(served: Served) -> JsonObject:
    card, architecture = served.card, _architecture(served)
    sizes = {
        "context_length": served.max_context,
        "embedding_length": card.embedding_size,
        "block_count": card.num_layers,
        "feed_forward_length": card.inner_size,
        "attention.head_count": card.num_heads,
        "attention.head_count_kv": card.num_kv_heads,
        "vocab_size": card.vocab_size,
    }
    return {
        "general.architecture": architecture,
        "general.basename": served.name,
        "general.parameter_count": card.num_parameters,
        **{f"{architecture}.{name}": size for name, size in sizes.items()},
    }


def _capabilities(served: Served) -> list[str]:
    card = served.card
    if not card.generates:
        return ["embedding"]
    abilities = {"tools": card.calls_tools, "insert": served.infill is not None, "thinking": card.thinks}
    return ["completion", *(name for name, has_it in abilities.items() if has_it)]


def _architecture(served: Served) -> str:
    return "".join(letter for letter in served.card.family.lower() if letter.isalnum())


def _modified(served: Served) -> str:
    return created_at(datetime.fromtimestamp(int(served.card.modified), UTC))


def _short(count: int) -> str:
    """As Ollama writes numbers of parameters: 2.36M, 8.0B."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.{2 if size == 10**6 else 1}f}{unit}"
    return str(count)
