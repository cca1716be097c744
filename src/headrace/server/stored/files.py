"""Files that clients upload and batches write: a record and its content, each written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from headrace.server.stored.errors import NotStored, StoreIsFull
from headrace.server.stored.folder import Folder, encoded, link_file, new_id, read_records, sync_folder, write_file

PREFIX = "file-"


class FileRecord(msgspec.Struct, kw_only=True):
    """What is known of a file. Its name is only shown: on the disk it is called by its id."""

    id: str
    tenant: str
    filename: str
    purpose: str
    num_bytes: int
    created_at: float
    expires_at: float


class FileStore:
    """Files by id, within a number and a sum of bytes for all uploads together."""

    def __init__(self, folder: Folder, max_count: int, max_bytes: int, max_seconds: float) -> None:
        self._folder = folder
        self._root = folder.path / "files"
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._root.mkdir(exist_ok=True, mode=0o700)
        records = read_records(self._root, "*.json", PREFIX, FileRecord)
        self._records = {record.id: record for record in sorted(records, key=lambda each: each.created_at)}
        self._sweep()

    async def add(
        self, tenant: str, filename: str, purpose: str, content: bytes | memoryview, seconds: int | None = None
    ) -> FileRecord:
        """Keep an upload; it is on the disk when this returns.

        Raises:
            StoreIsFull: there are too many files, or bytes in them.
        """
        self._sweep()
        num_bytes = sum(record.num_bytes for record in self._records.values())
        if len(self._records) >= self._max_count:
            raise StoreIsFull(f"The store has {len(self._records):,} files, its most; delete some")
        if num_bytes + len(content) > self._max_bytes:
            raise StoreIsFull(
                f"The store has {num_bytes:,} bytes of at most {self._max_bytes:,}, and the file {len(content):,};"
                " delete files",
                param="file",
            )
        record = self._record(new_id(PREFIX), tenant, filename, purpose, len(content), seconds)
        self._records[record.id] = record  # counted before it is written: others may come meanwhile
        try:
            await self._folder.do(lambda: self._write(record, lambda path: write_file(path, content)))
        except BaseException:  # also of a client that has left: the write goes on, and is undone after it
            self._records.pop(record.id, None)
            self._folder.submit(lambda: self._remove(record.id))
            raise
        return record

    async def adopt(
        self, file_id: str, tenant: str, filename: str, purpose: str, source: Path, seconds: int | None = None
    ) -> None:
        """Keep what a batch has written as a file of the given id; done again, it changes nothing."""
        record = self._record(file_id, tenant, filename, purpose, 0, seconds)

        def link() -> None:
            record.num_bytes = source.stat().st_size
            self._write(record, lambda path: link_file(source, path))

        await self._folder.do(link)
        self._records[file_id] = record

    def get(self, file_id: str, tenant: str) -> FileRecord:
        """A tenant's file.

        Raises:
            NotStored: there is none of this id.
        """
        record = self._records.get(file_id)
        if record is None or record.tenant != tenant or record.expires_at < time.time():
            raise NotStored(f"No such File object: {file_id[:100]!r}", param="file_id")
        return record

    def owned_by(self, tenant: str) -> list[FileRecord]:
        """A tenant's files, the oldest first."""
        self._sweep()
        return [record for record in self._records.values() if record.tenant == tenant]

    async def delete(self, file_id: str, tenant: str) -> None:
        """Forget a file. A batch has its input already.

        Raises:
            NotStored: there is none of this id.
        """
        self.get(file_id, tenant)
        await self._folder.do(lambda: self._remove(file_id))
        self._records.pop(file_id, None)

    async def read(self, file_id: str, tenant: str) -> bytes:
        """A file's content.

        Raises:
            NotStored: there is none of this id.
        """
        self.get(file_id, tenant)
        return await self._folder.do(self.path(file_id).read_bytes)

    def path(self, file_id: str) -> Path:
        """Where the content of one of these files is; the id is ours."""
        return self._root / f"{self._records[file_id].id}.data"

    def _record(
        self, file_id: str, tenant: str, filename: str, purpose: str, num_bytes: int, seconds: int | None
    ) -> FileRecord:
        now = time.time()
        return FileRecord(
            id=file_id,
            tenant=tenant,
            filename=filename,
            purpose=purpose,
            num_bytes=num_bytes,
            created_at=now,
            expires_at=now + min(self._max_seconds, self._max_seconds if seconds is None else seconds),
        )

    def _write(self, record: FileRecord, write: Callable[[Path], None]) -> None:
        """The content first: a record without content never stands there."""
        write(self._root / f"{record.id}.data")
        write_file(self._root / f"{record.id}.json", encoded(record))

    def _remove(self, file_id: str) -> None:
        for kind in ("json", "data"):
            (self._root / f"{file_id}.{kind}").unlink(missing_ok=True)
        sync_folder(self._root)

    def _sweep(self) -> None:
        """Forget what has expired."""
        now = time.time()
        for file_id in [record.id for record in self._records.values() if record.expires_at < now]:
            del self._records[file_id]
            self._folder.submit(lambda file_id=file_id: self._remove(file_id))  # type: ignore[misc]
