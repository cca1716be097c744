"""`decode` in the words of Ollama's API, and what its requests have in common: names of models, keep_alive."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from headrace.errors import RequestError, UnknownModel, UnsupportedParameter
from headrace.server.dialects import decode as shared
from headrace.server.dialects.base import Incoming, Served
from headrace.server.dialects.ollama.requests import UNSUPPORTED, WORDS

T = TypeVar("T", bound=msgspec.Struct)

_DURATION = re.compile(r"[-+]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_ZERO = re.compile(r"[-+]?[0.]+(?:[a-zµμ]+[0.]*)*")
_LATEST = ":latest"


def decode(incoming: Incoming, kind: type[T]) -> T:
    """The body as a `kind`, after the fields that are refused.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    if not incoming.body:
        raise RequestError("missing request body")
    return shared.decode(incoming.body, kind, UNSUPPORTED.get(kind, {}), WORDS)


def served_model(name: str | None, served: Served) -> str:
    """The server's name for the model or adapter that a request names: with or without ":latest", in any case.

    Raises:
        UnknownModel: there is none.
        RequestError: no name is given.
    """
    if not name:
        raise RequestError("model is required", param="model")
    wanted = _plain(name)
    for known in (served.name, *served.adapters()):
        if _plain(known) == wanted:
            return known
    raise UnknownModel(f"model '{name}' not found", param="model")


def listed_name(name: str) -> str:
    """A model's name in lists: Ollama's always have a tag."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def asks_to_unload(keep_alive: float | str | None) -> bool:
    """Whether a request asks that the model leaves memory behind it.

    Raises:
        RequestError: it is no duration.
    """
    if isinstance(keep_alive, str):
        if _DURATION.fullmatch(keep_alive) is None:
            message = f'keep_alive is {keep_alive!r}, expected seconds or a duration such as "5m", "1h30m" or "-1s"'
            raise RequestError(message, param="keep_alive")
        return _ZERO.fullmatch(keep_alive) is not None
    return keep_alive == 0


def refuse_to_unload(name: str) -> None:
    """What an empty request with keep_alive=0 is told: to answer "unload" would be a lie.

    Raises:
        UnsupportedParameter: always.
    """
    raise UnsupportedParameter(
        f"model '{name}' was not unloaded: this server keeps its model until it stops; stop the server to free its"
        " memory, or leave keep_alive out",
        param="keep_alive",
    )


def _plain(name: str) -> str:
    return name.casefold().removesuffix(_LATEST)
