"""The engine's process; see `process.COMMAND`. Its argument is the number of a connected socket.

It lives as long as the process at the socket's other end, and ends itself when that is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from msgspec import MsgspecError

from headrace.engine.thread import EngineThread
from headrace.errors import EngineError, HeadraceError
from headrace.hub.files import ModelFiles
from headrace.loaded_engine import LoadedEngine
from headrace.logs import set_up
from headrace.model_text import ModelText
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.supervise.wire import (
    BEAT_SECONDS,
    BUSY_BEAT_SECONDS,
    AdapterFailed,
    AdapterLoaded,
    Beat,
    Cancel,
    CancelPooled,
    Close,
    Died,
    Dropped,
    Fault,
    Frames,
    FromEngine,
    LoadAdapter,
    Loaded,
    LoadFailed,
    Pool,
    Pooled,
    Start,
    Stepped,
    Submit,
    ToEngine,
    UnloadAdapter,
    Vector,
    decode_to_engine,
    encode,
)
from headrace.types import AdapterRef, Request, StepOutput

logger = logging.getLogger("headrace.engine")

_CHUNK = 1 << 20


class Line:
    """The socket to the server's process. Any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = Frames()
        self._ready: list[bytes] = []
        self._lock = threading.Lock()

    def send(self, message: FromEngine) -> None:
        """Send a message; a server that is gone ends this process."""
        data = encode(message)
        with self._lock:
            try:
                self._connection.sendall(data)
            except OSError:
                os._exit(0)

    def receive(self) -> ToEngine:
        """Wait for the next message; a server that is gone, or sends what is none, ends this process."""
        while not self._ready:
            try:
                data = self._connection.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                os._exit(0)
            self._ready.extend(self._frames.feed(data))
        try:
            return decode_to_engine(self._ready.pop(0))
        except MsgspecError as error:
            self.send(Died(f"the server's process sent what is no message ({error}); report this"))
            os._exit(1)


class Child:
    """The two engines of a process, and what the server asks of them."""

    def __init__(self, line: Line, text: ModelText, loaded: LoadedEngine) -> None:
        self._line = line
        self._text = text
        self._loaded = loaded
        self._thread = EngineThread(loaded.engine, self._deliver, self._drop, self._fail)
        self._pooling_thread: EngineThread[PoolingRequest, PoolingOutput] | None = None
        self._worker = ThreadPoolExecutor(1, "headrace-worker")
        self._compiling: dict[str, Request] = {}
        """Requests whose grammar is being compiled, but for those that were cancelled meanwhile"""
        threading.Thread(target=self._beat, name="headrace-beat", daemon=True).start()

    def do(self, message: ToEngine) -> None:
        """What the server asks for."""
        match message:
            case Submit(request):
                self._submit(request)
            case Cancel(request_id, index):
                if index is None:
                    self._compiling.pop(request_id, None)
                self._thread.cancel(request_id, index)
            case Pool(request):
                if self._pooling_thread is None:
                    self._pooling_thread = EngineThread(
                        self._loaded.pooling_engine, self._deliver_pooled, self._drop, self._fail
                    )
                self._pooling_thread.submit(request)
            case CancelPooled(request_id):
                if self._pooling_thread is not None:
                    self._pooling_thread.cancel(request_id)
            case LoadAdapter(adapter, path):
                self._worker.submit(self._load_adapter, adapter, path)
            case UnloadAdapter(adapter):
                self._thread.send(lambda: self._loaded.engine.unload_adapter(adapter))
            case Close():
                self._close()

    def _submit(self, request: Request) -> None:
        if request.grammar is None and request.thinking is None:
            self._thread.submit(request)
        else:
            self._compiling[request.id] = request
            self._worker.submit(self._compile_and_submit, request)

    def _compile_and_submit(self, request: Request) -> None:
        """Compile beside the running steps: what the engine asks for then is there already."""
        try:
            self._text.new_constraint(request)
        except HeadraceError as error:
            self._compiling.pop(request.id, None)
            self._drop(request.id, error)
        except Exception as error:  # noqa: BLE001  the outermost handler of this thread
            self._fail(_failure(error))
        else:
            self._thread.send(lambda: self._submit_compiled(request))

    def _submit_compiled(self, request: Request) -> None:
        """In the engine's thread, where no cancellation can come in between: one from before this has taken it out."""
        if self._compiling.get(request.id) is request:
            del self._compiling[request.id]
            self._thread.submit(request)

    def _load_adapter(self, adapter: AdapterRef, path: str) -> None:
        try:
            packed = self._loaded.read_adapter(path)
        except HeadraceError as error:
            self._line.send(AdapterFailed(adapter, Fault.of(error)))
        except Exception as error:  # noqa: BLE001  the outermost handler of this thread
            self._fail(_failure(error))
        else:
            self._thread.send(lambda: self._loaded.engine.load_adapter(adapter, packed))
            self._line.send(AdapterLoaded(adapter, packed.nbytes))

    def _beat(self) -> None:
        pause = threading.Event()
        engine, pooling = self._loaded.engine, self._loaded.pooling_engine
        while not pause.wait(BUSY_BEAT_SECONDS if engine.has_work or pooling.has_work else BEAT_SECONDS):
            stats = self._loaded.stats()
            has_work = engine.has_work or pooling.has_work
            self._line.send(Beat(stats.num_steps + pooling.num_tokens, has_work, stats, engine.num_computed))

    def _deliver(self, outputs: list[StepOutput]) -> None:
        self._line.send(Stepped(outputs, self._loaded.stats()))

    def _deliver_pooled(self, outputs: list[PoolingOutput]) -> None:
        self._line.send(Pooled([Vector.of(output) for output in outputs]))

    def _drop(self, request_id: str, error: HeadraceError) -> None:
        self._line.send(Dropped(request_id, Fault.of(error)))

    def _fail(self, error: EngineError) -> None:
        logger.error("the engine failed", exc_info=error.__cause__)
        self._line.send(Died(str(error)))
        os._exit(1)

    def _close(self) -> None:
        self._thread.close()
        if self._pooling_thread is not None:
            self._pooling_thread.close()
        os._exit(0)


def _failure(error: Exception) -> EngineError:
    failure = EngineError(f"the engine failed ({type(error).__name__}: {error}); report this")
    failure.__cause__ = error
    return failure


def main(connection: socket.socket) -> None:
    """Load what the first message names, and run it.

    The model is loaded in a thread, so that this process ends with the server's while it still loads.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # for a whole group or container; the server says when to end
    line = Line(connection)
    start = line.receive()
    assert isinstance(start, Start)
    set_up(start.logs)
    children: SimpleQueue[Child] = SimpleQueue()
    threading.Thread(target=lambda: children.put(_load(line, start)), name="headrace-load", daemon=True).start()
    message = line.receive()
    if isinstance(message, Close) and children.empty():
        os._exit(0)
    child = children.get()
    while True:
        child.do(message)
        message = line.receive()


def _load(line: Line, start: Start) -> Child:
    files = ModelFiles(
        start.name,
        None if start.folder is None else Path(start.folder),
        None if start.gguf_path is None else Path(start.gguf_path),
    )
    try:
        text = ModelText(files)
        loaded = LoadedEngine(text, start.config, dict(start.adapters))
    except HeadraceError as error:
        line.send(LoadFailed(Fault.of(error)))
        os._exit(1)
    except Exception as error:
        logger.error("the model cannot be loaded", exc_info=error)
        line.send(Died(f"the model cannot be loaded ({type(error).__name__}: {error})"))
        os._exit(1)
    line.send(Loaded(loaded.facts))
    return Child(line, text, loaded)


def run() -> None:
    """Run the socket whose number is the process's only argument."""
    main(socket.socket(fileno=int(sys.argv[1])))
