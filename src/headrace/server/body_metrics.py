"""What /metrics says of requests' bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from headrace.server.families import gauge

if TYPE_CHECKING:
    from headrace.server.body import BodyRoom


def body_families(room: BodyRoom, labels: Mapping[str, str]) -> Iterator[Metric]:
    """One snapshot of the room."""
    documentation = "Bytes of requests' bodies in memory, without the first 64 KiB of each."
    yield gauge("headrace:request_bodies_bytes", documentation, labels, room.num_bytes)
