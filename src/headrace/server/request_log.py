"""A log line for each request, at its end. What was asked and answered is never in it."""

from __future__ import annotations

import logging
from typing import Any

from headrace.server.record import RequestRecord

logger = logging.getLogger("headrace.requests")


def log_request(record: RequestRecord) -> None:
    """Write the line of a request that has ended; of a quiet one for debugging only."""
    level = logging.DEBUG if record.is_quiet else logging.INFO
    if logger.isEnabledFor(level):
        facts = _facts(record)
        logger.log(level, _line(facts), extra={"facts": facts})


def _facts(record: RequestRecord) -> dict[str, Any]:
    failure = record.failure
    facts: dict[str, Any] = {
        "request_id": record.id,
        "tenant": record.tenant,
        "dialect": record.dialect,
        "method": record.method,
        "route": record.route,
        "status": record.final_status,
        "model": record.model,
        "stream": record.is_streamed or None,
        "error": None if failure is None else failure.code or "invalid_request",
        "finish_reasons": record.finish_reasons or None,
        "seconds": round(record.seconds, 6),
    }
    if record.submitted is not None or record.prompt_tokens:
        facts["prompt_tokens"] = record.prompt_tokens
    if record.submitted is not None:
        facts["seconds_queued"] = round(record.seconds_queued, 6)
        if record.params is not None:
            facts |= {"cached_tokens": record.cached_tokens, "completion_tokens": record.completion_tokens}
    if record.first_token is not None:
        facts["seconds_to_first_token"] = round(record.first_token - record.arrival, 6)
    if record.interruption is not None:
        facts["engine_died"] = record.interruption.reason
    return {name: value for name, value in facts.items() if value is not None}


def _line(facts: dict[str, Any]) -> str:
    parts = [f"{facts['method']} {facts.get('route', 'no such path')} {facts['status']}", facts["tenant"]]
    if "model" in facts:
        parts.append(facts["model"])
    if "prompt_tokens" in facts:
        given = f" + {facts['completion_tokens']}" if "completion_tokens" in facts else ""
        parts.append(f"{facts['prompt_tokens']}{given} tokens")
    if "seconds_queued" in facts:
        parts.append(f"queue {1000 * facts['seconds_queued']:.1f} ms")
    if "seconds_to_first_token" in facts:
        parts.append(f"first token {1000 * facts['seconds_to_first_token']:.1f} ms")
    parts.append(f"{1000 * facts['seconds']:.1f} ms")
    if "engine_died" in facts:
        parts.append("the engine died meanwhile")
    if "error" in facts:
        parts.append(facts["error"])
    return " · ".join([*parts, facts["request_id"]])
