"""Works batches off: a few lines at once, between live requests; after a restart each goes on where it was.

    validating → in_progress → finalizing → completed | expired | cancelled
              ↘ failed       ↗ (cancelling)

A line is done when its result is on the disk. What else was computed when the process ended is computed again, with the
same seed, and gives the same text.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import msgspec

from headrace.server.stored.batch_files import ERRORS, OUTPUT, BatchFiles, result_line
from headrace.server.stored.batch_record import ENDED, BatchLine, BatchRecord, BatchStatus
from headrace.server.stored.batches import BatchStore

logger = logging.getLogger("headrace.server")

Ask: TypeAlias = Callable[[BatchRecord, int, BatchLine], Awaitable[tuple[int, bytes]]]
"""Answers a line of a batch: the HTTP status and the body"""
Start: TypeAlias = Callable[[Coroutine[Any, Any, None]], object]

_TRY_AGAIN_SECONDS = 60.0
_OK = 200
_WRITTEN_AT_ONCE = 1000
_REASONS = {
    BatchStatus.EXPIRED: "This request could not be executed before the completion window expired.",
    BatchStatus.CANCELLED: "This request was not executed: the batch was cancelled.",
}


class BatchRunner:
    """Runs every batch that has not ended; lines of several take turns."""

    def __init__(self, store: BatchStore, ask: Ask, lines_at_once: int, max_lines: int) -> None:
        self._store = store
        self._ask = ask
        self._slots = asyncio.Semaphore(lines_at_once)
        self._max_lines = max_lines
        self._lines: dict[str, asyncio.Task[None]] = {}

    def start(self, start: Start) -> None:
        """Go on with what there is, and take what comes. `start` runs a coroutine until the server ends."""

        def changed(record: BatchRecord) -> None:
            if record.status is not BatchStatus.CANCELLING:
                start(self._run(record))
            elif (lines := self._lines.get(record.id)) is not None:
                lines.cancel()

        self._store.on_change = changed
        for record in self._store.unfinished():
            start(self._run(record))

    async def _run(self, record: BatchRecord) -> None:
        """A batch, up to its end. Whatever stops it, such as a full disk, is waited out."""
        while record.status not in ENDED:
            files = self._store.open_files(record)
            try:
                await self._work_off(record, files)
            except Exception:
                logger.exception("batch %s has stopped; it goes on in %d s", record.id, _TRY_AGAIN_SECONDS)
            else:
                return
            finally:
                files.close()
            await asyncio.sleep(_TRY_AGAIN_SECONDS)

    async def _work_off(self, record: BatchRecord, files: BatchFiles) -> None:
        do = self._store.folder.do
        if BatchStatus.IN_PROGRESS not in record.times:
            if errors := await do(lambda: files.check(record, self._max_lines)):
                record.errors = errors
                await self._store.move(record, BatchStatus.FAILED)
                return
            if record.status is BatchStatus.VALIDATING:
                await self._store.move(record, BatchStatus.IN_PROGRESS)
        else:
            await do(files.index)
        if record.status is not BatchStatus.FINALIZING:
            final = await self._run_lines(record, files)
            await self._give_up_rest(record, files, final)
            record.final_status = final
            await self._store.move(record, BatchStatus.FINALIZING)
        await self._finalize(record, files)

    async def _run_lines(self, record: BatchRecord, files: BatchFiles) -> BatchStatus:
        """Run all lines without a result; with what status the batch will end."""
        done, record.num_completed, record.num_failed = await self._store.folder.do(files.recover)
        pending = [number for number in range(record.num_lines) if number not in done]
        if record.status is BatchStatus.CANCELLING:
            return BatchStatus.CANCELLED
        if not pending:  # it may be late by now, and was not when the last one was done
            return BatchStatus.COMPLETED
        lines = self._lines[record.id] = asyncio.create_task(self._start_lines(record, files, pending))
        try:
            await asyncio.wait((lines,), timeout=max(record.expires_at - time.time(), 0))
            is_late = not lines.done()
        finally:
            lines.cancel()
            await asyncio.gather(lines, return_exceptions=True)
            self._lines.pop(record.id, None)
        if is_late:
            return BatchStatus.EXPIRED
        if lines.cancelled():
            return BatchStatus.CANCELLED
        lines.result()
        return BatchStatus.COMPLETED

    async def _start_lines(self, record: BatchRecord, files: BatchFiles, pending: Sequence[int]) -> None:
        async with asyncio.TaskGroup() as group:
            for number in pending:
                await self._slots.acquire()
                task = group.create_task(self._run_line(record, files, number))
                task.add_done_callback(lambda _: self._slots.release())

    async def _run_line(self, record: BatchRecord, files: BatchFiles, number: int) -> None:
        do = self._store.folder.do
        line = await do(lambda: files.line(number))
        status, body = await self._ask(record, number, line)
        said = {"status_code": status, "request_id": record.result_id(number), "body": msgspec.Raw(body)}
        result = result_line(record, number, line.custom_id, response=said)
        name = OUTPUT if status == _OK else ERRORS
        await do(lambda: files.append(name, [result]))
        if status == _OK:
            record.num_completed += 1
        else:
            record.num_failed += 1

    async def _give_up_rest(self, record: BatchRecord, files: BatchFiles, final: BatchStatus) -> None:
        """Lines that have not run get an error: every line has a result."""
        done, record.num_completed, record.num_failed = await self._store.folder.do(files.recover)
        rest = [number for number in range(record.num_lines) if number not in done]
        if not rest:
            return
        error = {"code": f"batch_{final}", "message": _REASONS[final]}

        def append() -> None:
            for start in range(0, len(rest), _WRITTEN_AT_ONCE):
                numbers = rest[start : start + _WRITTEN_AT_ONCE]
                results = [result_line(record, each, files.line(each).custom_id, error=error) for each in numbers]
                files.append(ERRORS, results)

        await self._store.folder.do(append)
        record.num_failed += len(rest)

    async def _finalize(self, record: BatchRecord, files: BatchFiles) -> None:
        """Results become files, in the order of the lines; done again after a restart, it gives the same files."""
        do, seconds = self._store.folder.do, record.output_seconds
        _, record.num_completed, record.num_failed = await do(files.recover)
        for name, file_id in ((OUTPUT, record.output_file_id), (ERRORS, record.error_file_id)):
            path = await do(lambda name=name: files.arrange(name))  # type: ignore[misc]
            if path is not None:
                shown = f"{record.id}_{name}"
                await self._store.files.adopt(file_id, record.tenant, shown, "batch_output", path, seconds)
        assert record.final_status is not None
        await self._store.move(record, record.final_status)
        await do(files.clear)
