"""The files of one batch: its input, and the results that lines append, each on the disk before it counts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from headrace.server.stored.batch_record import BatchLine, BatchRecord, LineError
from headrace.server.stored.folder import sync_folder

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
_MOST_ERRORS = 100
"""Lines whose mistakes are listed"""
_LONGEST_ID = 512


class _ResultId(msgspec.Struct):
    id: str


class BatchFiles:
    """A batch's folder. All methods block: they run in the store's thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets: list[tuple[int, int]] = []
        self._open: dict[str, BinaryIO] = {}

    def check(self, record: BatchRecord, max_lines: int) -> list[LineError]:
        """What is wrong with the input; sets the record's number of lines and its model."""
        errors: list[LineError] = []
        seen: set[str] = set()
        self.index()
        record.num_lines = len(self._offsets)
        if not self._offsets:
            return [LineError(code="empty_file", message="The file has no lines; send one request in each")]
        if len(self._offsets) > max_lines:
            message = f"The file has {len(self._offsets):,} lines, expected at most {max_lines:,}"
            return [LineError(code="too_many_lines", message=message)]
        for number in range(len(self._offsets)):
            found = self._check_line(record, number, seen)
            if isinstance(found, LineError):
                errors.append(found)
            elif record.model is None and isinstance(found.body.get("model"), str):
                record.model = found.body["model"]
            if len(errors) == _MOST_ERRORS:
                break
        return errors

    def index(self) -> None:
        """Find the lines of the input; blank ones are none."""
        self._offsets = []
        with (self.folder / "input.jsonl").open("rb") as file:
            start = 0
            for line in file:
                if line.strip():
                    self._offsets.append((start, len(line)))
                start += len(line)

    def line(self, number: int) -> BatchLine:
        """A line of an input that has been checked, from 0."""
        return msgspec.json.decode(self._raw(number), type=BatchLine)

    def recover(self) -> tuple[set[int], int, int]:
        """Which lines have results, and how many are completed and failed; half a line at the end is cut off."""
        done: set[int] = set()
        counts = []
        for name in (OUTPUT, ERRORS):
            path = self.folder / name
            if not path.exists():
                counts.append(0)
                continue
            numbers: set[int] = set()
            with path.open("r+b") as file:
                num_kept = 0
                for line in file:  # not all at once: results may be gigabytes
                    if line.endswith(b"\n"):
                        numbers.add(_number(line))
                        num_kept += len(line)
                if num_kept != file.seek(0, os.SEEK_END):
                    file.truncate(num_kept)
                    os.fsync(file.fileno())
            done |= numbers
            counts.append(len(numbers))
        return done, counts[0], counts[1]

    def append(self, name: str, results: Sequence[bytes]) -> None:
        """Add results, without line breaks; they last when this returns."""
        file = self._open.get(name)
        if file is None:
            file = self._open[name] = (self.folder / name).open("ab")
            sync_folder(self.folder)
        file.write(b"".join(result + b"\n" for result in results))
        file.flush()
        os.fsync(file.fileno())

    def close(self) -> None:
        """Give the files back."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def clear(self) -> None:
        """Leave nothing but the record: results are files by now."""
        self.close()
        for path in self.folder.glob("*.jsonl"):
            path.unlink()

    def arrange(self, name: str) -> Path | None:
        """The results in the order of their lines, in a file of their own; None if there are none."""
        path = self.folder / name
        if not path.exists():
            return None
        with path.open("rb") as file:
            places, start = [], 0
            for line in file:
                places.append((_number(line), start, len(line)))
                start += len(line)
            if not places:
                return None
            target = self.folder / f"final-{name}"
            with target.open("wb") as final:
                for _, offset, length in sorted(places):
                    file.seek(offset)
                    final.write(file.read(length))
                final.flush()
                os.fsync(final.fileno())
        return target

    def _raw(self, number: int) -> bytes:
        offset, length = self._offsets[number]
        with (self.folder / "input.jsonl").open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _check_line(self, record: BatchRecord, number: int, seen: set[str]) -> BatchLine | LineError:
        at = number + 1
        try:
            line = self.line(number)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            message = f"Line {at} is no request ({error}); expected custom_id, method, url and body"
            return LineError(code="invalid_json_line", message=message, line=at)
        if line.method != "POST":
            message = f"Line {at}: the method is {line.method[:20]!r}, expected POST"
            return LineError(code="invalid_method", message=message, param="method", line=at)
        if line.url != record.endpoint:
            message = f"Line {at}: the url is {line.url[:100]!r}, and the batch is for {record.endpoint}"
            return LineError(code="mismatched_endpoint", message=message, param="url", line=at)
        if not 0 < len(line.custom_id) <= _LONGEST_ID:
            message = f"Line {at}: the custom_id has {len(line.custom_id)} characters, expected 1 to {_LONGEST_ID}"
            return LineError(code="invalid_custom_id", message=message, param="custom_id", line=at)
        if line.custom_id in seen:
            message = f"Line {at}: the custom_id {line.custom_id[:100]!r} stands there twice"
            return LineError(code="duplicate_custom_id", message=message, param="custom_id", line=at)
        seen.add(line.custom_id)
        return line


def result_line(record: BatchRecord, number: int, custom_id: str, **outcome: Any) -> bytes:
    """A line of the output or of the errors: `response` or `error`."""
    fields = {"id": record.result_id(number), "custom_id": custom_id, "response": None, "error": None, **outcome}
    return msgspec.json.encode(fields)


def _number(line: bytes) -> int:
    return int(msgspec.json.decode(line, type=_ResultId).id.rpartition("_")[2])
