"""Download of large files into huggingface_hub's cache that goes on where an earlier process stopped.

huggingface_hub itself resumes only within one call: since 1.x a process that is stopped loses its partial files. So
large files are put in place here, by their hash, as the cache keeps them (`blobs/<hash>`); huggingface_hub finds them
there and links them into the snapshot.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from headrace.errors import ModelError
from headrace.hub.failures import HTTPError

PARTIAL = ".headrace.incomplete"
LARGE = 8 << 20
"""Files from this size are resumed between processes; smaller ones huggingface_hub downloads alone."""
MOST = 50_000_000_000
"""Larger ones the hub does not send over plain HTTP; huggingface_hub has its own protocol for them."""
_PIECE = 1 << 20
_WORKERS = 4
ATTEMPTS = 5
_TIMEOUT_SECONDS = 15.0
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A large file on the hub; its sha256 is its name in the cache."""

    name: str
    url: str
    size: int
    sha256: str


Advance = Callable[[RemoteFile, int], None]
"""Called with the number of bytes that have come in since the last call."""


def download_all(files: Sequence[RemoteFile], blobs: Path, headers: dict[str, str], advance: Advance) -> None:
    """Put every file into `blobs` under its hash, several at a time.

    Raises:
        ModelError: what came is not what the hub's hash says.
        OSError: the disk; or an error of huggingface_hub's HTTP library when the network fails for good.
    """
    blobs.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="headrace-download") as pool:
        tasks = [pool.submit(_download, file, blobs, headers, advance, stop) for file in files]
        try:
            for task in tasks:
                task.result()
        except BaseException:  # Ctrl-C too: the partial files stay, the threads stop at the next piece
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(slots=True)
class _Transfer:
    """One file on its way: `stream` is its partial file, at the end of what is there; `digest` has hashed that."""

    file: RemoteFile
    stream: BinaryIO
    headers: dict[str, str]
    advance: Advance
    stop: threading.Event
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def resume(self) -> None:
        """Take over what an earlier process left."""
        self.stream.seek(0)
        while piece := self.stream.read(_PIECE):
            self.digest.update(piece)
        if self.stream.tell() > self.file.size:
            self.stream.truncate(0)
            self.stream.seek(0)
            self.digest = hashlib.sha256()
        self.advance(self.file, self.stream.tell())

    def receive(self) -> None:
        """Append the rest, beginning again after a broken connection as long as that brings more bytes."""
        attempts = 0
        while self.stream.tell() < self.file.size and not self.stop.is_set():
            before = self.stream.tell()
            failure = self._receive_once()
            attempts = 0 if self.stream.tell() > before else attempts + 1
            if attempts >= ATTEMPTS:
                lacking = f"the hub sent {before:,} of {self.file.size:,} bytes of {self.file.name}; try again"
                raise failure or ModelError(lacking)
            if failure is not None:
                self.stop.wait(RETRY_SECONDS)

    def _receive_once(self) -> Exception | None:
        """One request for the rest; returns the network's failure, raises when the hub refuses."""
        from huggingface_hub import get_session, hf_raise_for_status

        start = self.stream.tell()
        headers = {**self.headers, "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
        try:
            with get_session().stream("GET", self.file.url, headers=headers, timeout=_TIMEOUT_SECONDS) as response:
                hf_raise_for_status(response)
                skip = start if response.status_code != 206 else 0  # a server without ranges sends all again
                for piece in response.iter_bytes():  # unchunked: a chunk under way would be lost with the line
                    if self.stop.is_set():
                        return None
                    self._append(piece[skip:])
                    skip = max(0, skip - len(piece))
        except HTTPError as error:
            if getattr(error, "response", None) is not None:
                raise
            return error
        return None

    def _append(self, piece: bytes) -> None:
        if self.stream.tell() + len(piece) > self.file.size:
            raise ModelError(f"the hub sent more than the {self.file.size:,} bytes of {self.file.name}; try again")
        self.stream.write(piece)
        self.digest.update(piece)
        self.advance(self.file, len(piece))


def _download(file: RemoteFile, blobs: Path, headers: dict[str, str], advance: Advance, stop: threading.Event) -> None:
    blob = blobs / file.sha256
    partial = blobs / (file.sha256 + PARTIAL)
    if blob.exists():
        advance(file, file.size)
        return
    with partial.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # one process downloads, others wait and find it done
        if blob.exists():
            advance(file, file.size)
            return
        transfer = _Transfer(file, stream, headers, advance, stop)
        transfer.resume()
        transfer.receive()
        if stop.is_set():
            return
        if transfer.digest.hexdigest() != file.sha256:
            partial.unlink(missing_ok=True)
            raise ModelError(f"{file.name} came damaged (its sha256 does not match the hub's); try again")
        stream.flush()
        os.fsync(stream.fileno())
        partial.replace(blob)
