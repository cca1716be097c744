"""What the server's process and the engine's tell each other: MessagePack messages, each behind its length.

Nothing that could run code travels here: decoding makes the types below, of plain fields, or fails.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from msgspec import Struct, msgpack

from headrace import errors
from headrace.config import EngineConfig
from headrace.engine.stats import EngineStats
from headrace.errors import EngineError, HeadraceError, RequestError
from headrace.loaded_engine import EngineFacts
from headrace.logs import LogSettings
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.types import AdapterRef, Request, StepOutput

_LENGTH = struct.Struct("<I")


class Start(Struct, tag=True, kw_only=True):
    """The first message: what to load. The model has been found already: a folder, or a GGUF file."""

    name: str
    folder: str | None
    gguf_path: str | None
    config: EngineConfig
    adapters: list[tuple[AdapterRef, str]]
    """With the folder of each"""
    logs: LogSettings = LogSettings()


class Submit(Struct, tag=True):
    """A request."""

    request: Request


class Cancel(Struct, tag=True):
    """See `EnginePort.cancel`."""

    request_id: str
    index: int | None


class Pool(Struct, tag=True):
    """A pooling request."""

    request: PoolingRequest


class CancelPooled(Struct, tag=True):
    """See `EnginePort.cancel_pooled`."""

    request_id: str


class LoadAdapter(Struct, tag=True):
    """Answered with `AdapterLoaded` or `AdapterFailed`."""

    adapter: AdapterRef
    path: str


class UnloadAdapter(Struct, tag=True):
    """See `EnginePort.unload_adapter`."""

    adapter: AdapterRef


class Close(Struct, tag=True):
    """Stop after the step in progress, and exit."""


ToEngine: TypeAlias = Start | Submit | Cancel | Pool | CancelPooled | LoadAdapter | UnloadAdapter | Close


class EncodeFailed(Exception):
    """A message cannot be sent."""


class Fault(Struct):
    """An error of the tree, by its name."""

    kind: str
    message: str
    param: str | None = None

    @classmethod
    def of(cls, error: HeadraceError) -> Fault:
        """What the other process makes the same error of."""
        return cls(type(error).__name__, str(error), getattr(error, "param", None))

    def error(self) -> HeadraceError:
        """The error again; an unknown one is an EngineError."""
        kind = getattr(errors, self.kind, None)
        if not isinstance(kind, type) or not issubclass(kind, HeadraceError):
            return EngineError(self.message)
        return kind(self.message, param=self.param) if issubclass(kind, RequestError) else kind(self.message)


class Loaded(Struct, tag=True):
    """The engine takes requests."""

    facts: EngineFacts


class LoadFailed(Struct, tag=True):
    """The engine could not be loaded; the process exits."""

    fault: Fault


class Stepped(Struct, tag=True):
    """What a step gave."""

    outputs: list[StepOutput]
    stats: EngineStats


class Vector(Struct, tag=True):
    """A `PoolingOutput`; the values are float32, little-endian."""

    request_id: str
    values: bytes

    @classmethod
    def of(cls, output: PoolingOutput) -> Vector:
        """An output as it travels."""
        return cls(output.request_id, output.values.astype("<f4", copy=False).tobytes())

    def output(self) -> PoolingOutput:
        """The output again."""
        return PoolingOutput(self.request_id, np.frombuffer(self.values, "<f4").astype(np.float32))


class Pooled(Struct, tag=True):
    """Pooling requests that are done."""

    vectors: list[Vector]


class Dropped(Struct, tag=True):
    """A request that the engine refuses."""

    request_id: str
    fault: Fault


class AdapterLoaded(Struct, tag=True):
    """The adapter can be named."""

    adapter: AdapterRef
    nbytes: int


class AdapterFailed(Struct, tag=True):
    """The adapter cannot be read, or does not fit."""

    adapter: AdapterRef
    fault: Fault


class Beat(Struct, tag=True):
    """Sent over and over, whatever the engine does: `progress` grows with every step that it makes."""

    progress: int
    has_work: bool
    stats: EngineStats
    num_computed: dict[str, int] = {}
    """Tokens of each request that has given nothing yet"""


class Died(Struct, tag=True):
    """The engine failed with an exception; the process exits."""

    message: str


FromEngine: TypeAlias = Loaded | LoadFailed | Stepped | Pooled | Dropped | AdapterLoaded | AdapterFailed | Beat | Died

BEAT_SECONDS = 0.25
BUSY_BEAT_SECONDS = 0.05
"""With work: who is on trial is seen to move soon"""


def _plain(value: Any) -> Any:
    """What callers may put into a request's fields, and MessagePack does not know: numpy's numbers, other mappings."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


_encoder = msgpack.Encoder(enc_hook=_plain)
_to_engine: msgpack.Decoder[ToEngine] = msgpack.Decoder(ToEngine)
_from_engine: msgpack.Decoder[FromEngine] = msgpack.Decoder(FromEngine)


def encode(message: ToEngine | FromEngine) -> bytes:
    """A message as bytes, its length in front.

    Raises:
        EncodeFailed: something in it is not plain data.
    """
    try:
        return _framed(message)
    except (TypeError, ValueError, OverflowError, RecursionError, struct.error) as error:
        raise EncodeFailed(str(error)) from error


def _framed(message: ToEngine | FromEngine) -> bytes:
    payload = _encoder.encode(message)
    return _LENGTH.pack(len(payload)) + payload


def decode_to_engine(payload: bytes) -> ToEngine:
    """A message for the engine, without its length."""
    return _to_engine.decode(payload)


def decode_from_engine(payload: bytes) -> FromEngine:
    """A message of the engine, without its length."""
    return _from_engine.decode(payload)


class Frames:
    """Cuts what comes over a socket into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now, without their lengths; the rest of one is kept for the next call."""
        self._held += data
        found: list[bytes] = []
        start = 0
        while len(self._held) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held, start)
            end = start + _LENGTH.size + length
            if len(self._held) < end:
                break
            found.append(bytes(self._held[start + _LENGTH.size : end]))
            start = end
        del self._held[:start]
        return found
