"""What is known of a batch, as it stands on the disk."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any

import msgspec

PREFIX = "batch_"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")


class BatchStatus(StrEnum):
    """How far a batch is, in OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = (BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)


class LineError(msgspec.Struct, kw_only=True):
    """What is wrong with a line of the input, found before anything runs."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchRecord(msgspec.Struct, kw_only=True):
    """A batch. `times` has a Unix time for each status that it has been in."""

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None
    output_seconds: int | None
    """After how long its files expire; None: with all others"""
    created_at: float
    expires_at: float
    seed: int
    """What the seeds of its lines are made from"""
    output_file_id: str
    error_file_id: str
    status: BatchStatus = BatchStatus.VALIDATING
    final_status: BatchStatus | None = None
    """What comes after finalizing"""
    times: dict[str, float] = {}
    num_lines: int = 0
    model: str | None = None
    """Of its first line"""
    errors: list[LineError] = []
    num_completed: int = 0
    """When it has ended; until then what its files hold is counted"""
    num_failed: int = 0

    def line_seed(self, number: int) -> int:
        """The seed of a line that names none: the same after a restart."""
        digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def result_id(self, number: int) -> str:
        """The id of a line's result, in which its number stands."""
        return f"batch_req_{self.id.removeprefix(PREFIX)}_{number}"


class BatchLine(msgspec.Struct):
    """A request of the input. What its body is like is found out when it runs."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]
