"""Batches by id, and their records on the disk. What becomes of them is the runner's."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from headrace.errors import RequestError
from headrace.server.stored.batch_files import BatchFiles
from headrace.server.stored.batch_record import ENDED, PREFIX, BatchRecord, BatchStatus
from headrace.server.stored.errors import NotStored, StillNeeded, StoreIsFull
from headrace.server.stored.files import PREFIX as FILE
from headrace.server.stored.files import FileStore
from headrace.server.stored.folder import Folder, encoded, link_file, new_id, read_records, sync_folder, write_file

WINDOW_SECONDS = 86_400
"""OpenAI's only completion_window, 24h"""


class BatchStore:
    """All batches of a server.

    Attributes:
        on_change: Called with a batch that was made or is to be cancelled.
    """

    def __init__(self, folder: Folder, files: FileStore, max_open: int, max_seconds: float) -> None:
        self.folder = folder
        self.files = files
        self._root = folder.path / "batches"
        self._max_open = max_open
        self._max_seconds = max_seconds
        self._root.mkdir(exist_ok=True, mode=0o700)
        records = read_records(self._root, "*/batch.json", PREFIX, BatchRecord)
        self._records = {record.id: record for record in sorted(records, key=lambda each: each.created_at)}
        self.on_change: Callable[[BatchRecord], None] = lambda _: None
        self._sweep()

    async def create(
        self,
        tenant: str,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        output_seconds: int | None = None,
    ) -> BatchRecord:
        """Make a batch of an uploaded file; it survives from here on.

        Raises:
            RequestError: there is no such file, or it is of another purpose.
            StoreIsFull: too many batches have not ended.
        """
        try:
            file = self.files.get(input_file_id, tenant)
        except NotStored as error:
            raise RequestError(str(error), param="input_file_id") from None
        if file.purpose != "batch":
            message = f"The file's purpose is {file.purpose!r}, expected batch"
            raise RequestError(message, param="input_file_id")
        self._sweep()
        if sum(record.status not in ENDED for record in self._records.values()) >= self._max_open:
            raise StoreIsFull(f"{self._max_open} batches have not ended yet, which is the most; wait for one")
        now = time.time()
        record = BatchRecord(
            id=new_id(PREFIX),
            tenant=tenant,
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window="24h",
            metadata=metadata,
            output_seconds=output_seconds,
            created_at=now,
            expires_at=now + WINDOW_SECONDS,
            seed=secrets.randbits(63),
            output_file_id=new_id(FILE),
            error_file_id=new_id(FILE),
        )
        source = self.files.path(input_file_id)
        await self.folder.do(lambda: self._make_folder(record, source))
        self._records[record.id] = record
        self.on_change(record)
        return record

    def get(self, batch_id: str, tenant: str) -> BatchRecord:
        """A tenant's batch.

        Raises:
            NotStored: there is none of this id.
        """
        record = self._records.get(batch_id)
        if record is None or record.tenant != tenant:
            raise NotStored(f"No batch found with id {batch_id[:100]!r}", param="batch_id")
        return record

    def owned_by(self, tenant: str) -> list[BatchRecord]:
        """A tenant's batches, the oldest first."""
        self._sweep()
        return [record for record in self._records.values() if record.tenant == tenant]

    def unfinished(self) -> list[BatchRecord]:
        """Everybody's batches that have not ended."""
        return [record for record in self._records.values() if record.status not in ENDED]

    async def cancel(self, batch_id: str, tenant: str) -> BatchRecord:
        """Ask for a batch's end; what has been computed is kept.

        Raises:
            NotStored: there is none of this id.
            StillNeeded: it has ended, or is about to.
        """
        record = self.get(batch_id, tenant)
        if record.status in ENDED or record.status is BatchStatus.FINALIZING:
            raise StillNeeded(f"The batch is {record.status}; only one that runs can be cancelled", param="batch_id")
        if record.status is not BatchStatus.CANCELLING:
            await self.move(record, BatchStatus.CANCELLING)
            self.on_change(record)
        return record

    async def move(self, record: BatchRecord, status: BatchStatus) -> None:
        """Give a batch a status; where the disk does not take it, it keeps the one that it had.

        Raises:
            OSError: it could not be written.
        """
        times = {**record.times, status.value: time.time()}
        changed = {"status": status, "times": times}
        as_it_will_be = encoded({**_fields(record), **changed})
        path = self._root / record.id / "batch.json"
        before = record.status, record.times
        record.status, record.times = status, times  # at once: who cancels it meanwhile goes on from here
        try:
            await self.folder.do(lambda: write_file(path, as_it_will_be))
        except OSError:
            if record.times is times:
                record.status, record.times = before
            raise

    def open_files(self, record: BatchRecord) -> BatchFiles:
        """A batch's folder."""
        return BatchFiles(self._root / record.id)

    def _make_folder(self, record: BatchRecord, source: Path) -> None:
        """The record comes last: without it the folder is none."""
        path = self._root / record.id
        path.mkdir(mode=0o700)
        try:
            link_file(source, path / "input.jsonl")
            write_file(path / "batch.json", encoded(record))
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        sync_folder(self._root)

    def _sweep(self) -> None:
        """Forget batches that ended long ago; their files have a time of their own."""
        before = time.time() - self._max_seconds
        for record in [each for each in self._records.values() if each.status in ENDED and each.created_at < before]:
            del self._records[record.id]
            path = self._root / record.id
            self.folder.submit(lambda path=path: shutil.rmtree(path, ignore_errors=True))  # type: ignore[misc]


def _fields(record: BatchRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
