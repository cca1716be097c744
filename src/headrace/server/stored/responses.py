"""Responses that can be asked for again: in memory, within bounds; with a folder they outlive the process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from headrace.errors import RequestError
from headrace.server.stored.errors import NotStored
from headrace.server.stored.folder import Folder, encoded, new_id, read_records, write_file

PREFIX = "resp_"
_RUNS = ("queued", "in_progress")
_READY = ("completed", "incomplete")

Items = list[dict[str, Any]]


class StoredResponse(msgspec.Struct, kw_only=True):
    """A response, and what it was made from."""

    id: str
    tenant: str
    created_at: float
    previous: str | None = None
    """The response that it goes on from"""
    input: Items
    """Its own input, without that of the ones before"""
    response: dict[str, Any]
    """As clients get it"""


@dataclass(slots=True)
class _Shelf:
    """One tenant's, the least recently used first."""

    entries: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    num_bytes: int = 0


class ResponseStore:
    """Responses by id. Beyond its bounds it forgets what has not been used for longest, of the tenant with the most.

    All methods but `settle` return at once. They are called from the event loop; `history` from any thread.
    """

    def __init__(self, max_count: int, max_bytes: int, max_seconds: float, folder: Folder | None = None) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._folder = folder
        self._shelves: dict[str, _Shelf] = {}
        self._made: dict[str, tuple[str, float]] = {}
        """Tenant and time by id, the oldest first"""
        self._cancels: dict[str, Callable[[], object]] = {}
        self._writes: dict[str, Future[None]] = {}
        self._lock = threading.RLock()
        """Around the shelves"""
        if folder is not None:
            self._load(folder.path / "responses")

    def put(self, stored: StoredResponse) -> None:
        """Keep a response, or its new state."""
        self._enter(stored)
        if stored.response["status"] not in _RUNS:
            self._cancels.pop(stored.id, None)
        if self._folder is not None:
            path, content = self._path(stored.id), encoded(stored)
            self._writes[stored.id] = self._folder.submit(lambda: write_file(path, content))
        self._forget_what_exceeds()

    def get(self, response_id: str, tenant: str) -> StoredResponse:
        """A tenant's response.

        Raises:
            NotStored: there is none of this id.
        """
        with self._lock:
            shelf = self._shelves.get(tenant)
            content = None if shelf is None else shelf.entries.get(response_id)
            if shelf is None or content is None:
                raise NotStored(f"Response with id {response_id[:100]!r} not found", param="response_id")
            stored = msgspec.json.decode(content, type=StoredResponse)
            if time.time() > stored.created_at + self._max_seconds:
                self._drop(tenant, response_id)
                raise NotStored(f"Response with id {response_id[:100]!r} not found", param="response_id")
            shelf.entries.move_to_end(response_id)
            return stored

    def history(self, response_id: str, tenant: str) -> Items:
        """What a conversation consists of up to and with a response: its items and those before them, in order.

        Raises:
            RequestError: one of the responses is not there (any more), or has not been finished.
        """
        turns: list[Items] = []
        wanted: str | None = response_id
        while wanted is not None:
            try:
                stored = self.get(wanted, tenant)
            except NotStored:
                raise RequestError(
                    f"Previous response with id {wanted[:100]!r} not found; it was not stored, or is not kept any more",
                    param="previous_response_id",
                ) from None
            status = stored.response["status"]
            if status not in _READY:
                raise RequestError(
                    f"The response {wanted} is {status}; only one that is completed can be gone on from",
                    param="previous_response_id",
                )
            turns.append([*stored.input, *stored.response["output"]])
            wanted = stored.previous
        return [item for turn in reversed(turns) for item in turn]

    def delete(self, response_id: str, tenant: str) -> None:
        """Forget a response; one that runs is cancelled.

        Raises:
            NotStored: there is none of this id.
        """
        with self._lock:  # it may expire in between
            self.get(response_id, tenant)
            self._drop(tenant, response_id)
        if (cancel := self._cancels.pop(response_id, None)) is not None:
            cancel()

    def runs(self, response_id: str, cancel: Callable[[], object]) -> None:
        """A stored response is being made in the background, and this is how to end it."""
        self._cancels[response_id] = cancel

    def cancel(self, response_id: str, tenant: str) -> StoredResponse:
        """End a response of the background; one that has ended stays as it is.

        Raises:
            NotStored: there is none of this id.
            RequestError: it does not run in the background.
        """
        stored = self.get(response_id, tenant)
        if not stored.response.get("background"):
            raise RequestError("Only responses created with background=true can be cancelled", param="response_id")
        if stored.response["status"] in _RUNS:
            cancel = self._cancels.pop(response_id, None)
            stored.response["status"] = "cancelled"
            self.put(stored)
            if cancel is not None:
                cancel()
        return stored

    def is_running(self, response_id: str, tenant: str) -> bool:
        """Whether it is being made, and was not deleted or cancelled."""
        try:
            return self.get(response_id, tenant).response["status"] in _RUNS
        except NotStored:
            return False

    async def settle(self, response_id: str) -> None:
        """Wait until a response is on the disk, where there is one to be on.

        Raises:
            OSError: it could not be written.
        """
        write = self._writes.pop(response_id, None)
        if write is not None:
            await asyncio.wrap_future(write)

    def _enter(self, stored: StoredResponse) -> None:
        content = encoded(stored)
        with self._lock:
            shelf = self._shelves.setdefault(stored.tenant, _Shelf())
            shelf.num_bytes += len(content) - len(shelf.entries.pop(stored.id, b""))
            shelf.entries[stored.id] = content
            self._made.setdefault(stored.id, (stored.tenant, stored.created_at))

    def _forget_what_exceeds(self) -> None:
        now = time.time()
        with self._lock:
            while self._made:
                response_id, (tenant, created_at) = next(iter(self._made.items()))
                if created_at + self._max_seconds >= now:
                    break
                self._drop(tenant, response_id)
            while self._shelves:
                count = sum(len(shelf.entries) for shelf in self._shelves.values())
                num_bytes = sum(shelf.num_bytes for shelf in self._shelves.values())
                if count <= self._max_count and num_bytes <= self._max_bytes:
                    return
                if num_bytes > self._max_bytes:
                    tenant = max(self._shelves, key=lambda name: self._shelves[name].num_bytes)
                else:
                    tenant = max(self._shelves, key=lambda name: len(self._shelves[name].entries))
                self._drop(tenant, next(iter(self._shelves[tenant].entries)))

    def _drop(self, tenant: str, response_id: str) -> None:
        with self._lock:
            shelf = self._shelves[tenant]
            shelf.num_bytes -= len(shelf.entries.pop(response_id))
            if not shelf.entries:
                del self._shelves[tenant]
            del self._made[response_id]
        self._writes.pop(response_id, None)
        if self._folder is not None:
            path = self._path(response_id)
            self._folder.submit(lambda: path.unlink(missing_ok=True))

    def _path(self, response_id: str) -> Path:
        assert self._folder is not None
        return self._folder.path / "responses" / f"{response_id}.json"

    def _load(self, folder: Path) -> None:
        """What an earlier process left; what it had not finished has failed."""
        folder.mkdir(exist_ok=True, mode=0o700)
        for stored in sorted(read_records(folder, "*.json", PREFIX, StoredResponse), key=lambda each: each.created_at):
            if stored.response["status"] in _RUNS:
                message = "The server was stopped before the response was finished; send the request again"
                stored.response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
                self.put(stored)
            else:
                self._enter(stored)
        self._forget_what_exceeds()


def response_id() -> str:
    """A new one."""
    return new_id(PREFIX)
