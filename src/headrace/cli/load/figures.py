"""What a run of load showed, under the names of vLLM's result files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from headrace.cli.load.client import Answer

LATENCIES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token (without the first)",
    "itl": "Inter-token latency",
    "e2el": "End-to-end latency",
}
"""Names in keys of the result ("mean_ttft_ms") and what they are"""

PERCENTILES = (90, 99)
_CURVE = (*range(0, 90, 5), *range(90, 99), *(99 + tenth / 10 for tenth in range(11)))
"""Percentiles that are kept for pictures"""

_SHORTEST_SPAN, _MOST_SPANS = 0.1, 80
"""Seconds, and number, of what a timeline adds up"""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of sorted values, linear between them; 0 of none."""
    if not ordered:
        return 0.0
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def latencies(answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Milliseconds, sorted, of the answers that came whole."""
    gaps = [after - before for one in answers for before, after in zip(one.times, one.times[1:], strict=False)]
    values = {
        "ttft": [one.first for one in answers],
        "tpot": [one.per_token for one in answers if one.tokens > 1],
        "itl": gaps,
        "e2el": [one.latency for one in answers],
    }
    return {name: sorted(1e3 * value for value in each) for name, each in values.items()}


def result(
    answers: Sequence[Answer], began: float, seconds: float, limits: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Rates, latencies and what is drawn of them.

    Args:
        answers: All of a run.
        began: Its time.perf_counter().
        seconds: From then to the last answer.
        limits: Milliseconds of ttft, tpot, itl (a request's mean) and e2el within which a request is a good one.
    """
    good = [one for one in answers if one.error is None]
    measured = latencies(good)
    input_tokens, output_tokens = sum(one.prompt_tokens for one in good), sum(one.tokens for one in good)
    found: dict[str, Any] = {
        "completed": len(good),
        "failed": len(answers) - len(good),
        "first_error": next((one.error for one in answers if one.error is not None), None),
        "duration": seconds,
        "total_input_tokens": input_tokens,
        "total_cached_tokens": sum(one.cached_tokens for one in good),
        "total_output_tokens": output_tokens,
        "request_throughput": len(good) / seconds,
        "output_throughput": output_tokens / seconds,
        "total_token_throughput": (input_tokens + output_tokens) / seconds,
        "max_concurrent_requests": _most_at_once(answers),
    }
    if limits:
        found["goodput_limits_ms"] = dict(limits)
        found["request_goodput"] = sum(_is_good(one, limits) for one in good) / seconds
    for name, values in measured.items():
        found[f"mean_{name}_ms"] = fmean(values) if values else 0.0
        found[f"median_{name}_ms"] = percentile(values, 50)
        found[f"std_{name}_ms"] = pstdev(values) if values else 0.0
        for percent in PERCENTILES:
            found[f"p{percent}_{name}_ms"] = percentile(values, percent)
    found["percentiles"] = list(_CURVE)
    found["curves_ms"] = {name: [percentile(values, p) for p in _CURVE] for name, values in measured.items()}
    found["timeline"] = _timeline(good, began, seconds)
    return found


def _is_good(one: Answer, limits: Mapping[str, float]) -> bool:
    gaps = max(len(one.times) - 1, 1)
    values = {
        "ttft": one.first,
        "tpot": one.per_token,
        "itl": (one.times[-1] - one.times[0]) / gaps,
        "e2el": one.latency,
    }
    return all(1e3 * values[name] <= limit for name, limit in limits.items())


def _most_at_once(answers: Sequence[Answer]) -> int:
    changes = sorted([(one.sent, 1) for one in answers] + [(one.ended, -1) for one in answers])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _timeline(answers: Sequence[Answer], began: float, seconds: float) -> dict[str, list[float]]:
    """Seconds since the start, the tokens that came up to there (as a rate), and the requests that were open then."""
    count = max(min(round(seconds / _SHORTEST_SPAN), _MOST_SPANS), 1)
    span = seconds / count
    tokens = [0.0] * count
    for one in answers:
        for when in one.times:  # its tokens, shared evenly between its events
            tokens[min(int((when - began) / span), count - 1)] += one.tokens / len(one.times)
    times = [span * (at + 1) for at in range(count)]
    middles = [began + time - span / 2 for time in times]
    return {
        "seconds": times,
        "tokens_per_second": [each / span for each in tokens],
        "open_requests": [sum(one.sent <= when < one.ended for one in answers) for when in middles],
    }


def table(found: Mapping[str, Any]) -> str:
    """What is printed, line by line as vLLM prints it."""
    lines = [f"{' Serving benchmark ':=^60}", *(_line(label, found[key]) for label, key in ROWS if key in found)]
    for name, title in LATENCIES.items():
        lines.append(f"{f' {title} ':-^60}")
        lines += [_line(label, found[key]) for label, key in latency_rows(name)]
    return "\n".join([*lines, "=" * 60])


ROWS = (
    ("Successful requests", "completed"),
    ("Failed requests", "failed"),
    ("Shortened to the context", "shortened"),
    ("Benchmark duration (s)", "duration"),
    ("Total input tokens", "total_input_tokens"),
    ("Of these from the prefix cache", "total_cached_tokens"),
    ("Total generated tokens", "total_output_tokens"),
    ("Request throughput (req/s)", "request_throughput"),
    ("Request goodput (req/s)", "request_goodput"),
    ("Output token throughput (tok/s)", "output_throughput"),
    ("Total token throughput (tok/s)", "total_token_throughput"),
    ("Peak concurrent requests", "max_concurrent_requests"),
)
"""Label and key of what is printed above the latencies"""


def latency_rows(name: str) -> list[tuple[str, str]]:
    """Label and key of one latency's lines."""
    kinds = [("Mean", "mean"), ("Median", "median"), *((f"P{percent}", f"p{percent}") for percent in PERCENTILES)]
    return [(f"{label} {name.upper()} (ms)", f"{key}_{name}_ms") for label, key in kinds]


def _line(label: str, value: float) -> str:
    return f"{label + ':':<44}{_figure(value):>16}"


def comparison(one: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]]) -> str:
    """Two runs, each with its name, beside each other, and how much more the second has."""
    named = {"A": one, "B": other}
    lines = [f"{letter}: {name}, {described(found)}" for letter, (name, found) in named.items()]
    lines += ["", f"{'':<44}{'A':>14}{'B':>14}{'B : A':>10}"]
    for label, key in [*ROWS, *(row for name in LATENCIES for row in latency_rows(name))]:
        before, after = one[1].get(key), other[1].get(key)
        if before is not None and after is not None:
            ratio = f"{after / before:>10.3f}" if before else f"{'–':>10}"
            lines.append(f"{label:<44}{_figure(before):>14}{_figure(after):>14}{ratio}")
    return "\n".join(lines)


def described(found: Mapping[str, Any]) -> str:
    """What was sent to whom, of a result."""
    when = f"of {found['trace']}" if found.get("trace") else f"at {found.get('request_rate', '?')} requests/s"
    return f"{found.get('model', '?')}: {found.get('num_prompts', '?')} requests {when}"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
