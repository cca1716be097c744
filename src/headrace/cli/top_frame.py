"""One frame of `headrace top`, made of what /metrics said over the last seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headrace.cli.scrape import Scrape, quantiles, rate, rates_by

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SPARKS = 30
_BAR = 20
_NARROW = 78
"""Columns that three panels need"""
_SHARES = (0.5, 0.9, 0.99)
_LATENCIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("first", ("vllm:time_to_first_token_seconds",)),
    ("next", ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")),
    ("queue", ("vllm:request_queue_time_seconds",)),
    ("whole", ("vllm:e2e_request_latency_seconds",)),
)
_MOST_KEYS = 8
_IN, _OUT = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"


def frame(history: Sequence[Scrape], title: str, note: str = "", trouble: str = "") -> RenderableType:
    """The last of `history`, and what has changed since the first.

    `note` stands in the last line, `trouble`, why the server has said nothing since, below the first.
    """
    before, now = (history[0] if len(history) > 1 else None), history[-1]
    top = _Beside(_requests(before, now), _tokens(history), _latencies(before, now))
    parts: list[RenderableType] = [_title(now, title, is_there=not trouble), top, _cache(before, now)]
    if trouble:
        parts.insert(1, Text(trouble, style="red"))
    if keys := _keys(before, now):
        parts.append(keys)
    return Group(*parts, Text(note, style="dim", no_wrap=True, overflow="ellipsis"))


class _Beside:
    """Three panels in a row, or where that is too narrow one below the other."""

    def __init__(self, *panels: Panel) -> None:
        self._panels = panels

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < _NARROW:
            yield from self._panels
            return
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(width=18)
        row.add_column(ratio=1)
        row.add_column(width=38)
        row.add_row(*self._panels)
        yield row


def _title(now: Scrape, title: str, *, is_there: bool) -> Text:
    models = [labels.get("model_name", "") for labels, _ in now.samples.get("vllm:num_requests_running", ())]
    line = Text(f"{title}  ", style="bold", no_wrap=True, overflow="ellipsis")
    line.append(", ".join(dict.fromkeys(filter(None, models))) + "  ", style="cyan")
    if not is_there:
        line.append("no answer", style="bold red")
    elif now.has("vllm:engine_healthy"):
        is_healthy = now.total("vllm:engine_healthy") > 0
        line.append("running" if is_healthy else "engine down", style="green" if is_healthy else "bold red")
    restarts = now.total("headrace:engine_restarts_total")
    if restarts:
        seconds = now.total("headrace:engine_restart_to_next_token_seconds")
        after = f", next token after {seconds:.2f} s" if seconds else ""
        line.append(f"  {restarts:,.0f} restart{'' if restarts == 1 else 's'}{after}", style="yellow")
    return line


def _requests(before: Scrape | None, now: Scrape) -> Panel:
    table = _pairs()
    table.add_row("running", f"{now.total('vllm:num_requests_running'):,.0f}")
    waiting = now.total("vllm:num_requests_waiting")
    table.add_row("waiting", Text(f"{waiting:,.0f}", style="yellow" if waiting else ""))
    for name, metric in (("done", "vllm:request_success_total"), ("failed", "headrace:request_failures_total")):
        if now.has(metric):
            table.add_row(f"{name}/s", "–" if before is None else f"{rate(before, now, metric):,.1f}")
    return Panel(table, title="requests", title_align="left")


def _tokens(history: Sequence[Scrape]) -> Panel:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=3)
    table.add_column(justify="right", style="bold", width=7)
    table.add_column(style="cyan", no_wrap=True, ratio=1)
    for name, metric in (("in", _IN), ("out", _OUT)):
        rates = [rate(old, new, metric) for old, new in pairwise(history)]
        mean = rate(history[0], history[-1], metric)
        table.add_row(name, f"{mean:,.0f}" if rates else "–", Text(_spark(rates), overflow="crop"))
    return Panel(table, title="tokens/s", title_align="left")


def _latencies(before: Scrape | None, now: Scrape) -> Panel:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    for share in _SHARES:
        table.add_column(f"p{share * 100:.0f}", justify="right", no_wrap=True)
    for name, metrics in _LATENCIES:
        bounds = [bound for bound in now.buckets(*metrics) if math.isfinite(bound)]
        table.add_row(name, *(_estimate(each, bounds) for each in quantiles(before, now, metrics, _SHARES)))
    return Panel(table, title="latency of tokens and requests", title_align="left")


def _cache(before: Scrape | None, now: Scrape) -> Panel:
    used = now.total("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
    line = Text()
    line.append_text(_bar(used, "red" if used > 0.95 else "green"))
    hits = _share(before, now, "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
    right = _share(before, now, "vllm:spec_decode_num_accepted_tokens_total", "vllm:spec_decode_num_draft_tokens_total")
    line.append(f" {used:.0%}  prefix hits {hits}  guesses right {right}")
    line.append(f"  preempted {now.total('vllm:num_preemptions_total'):,.0f}")
    return Panel(line, title="KV cache in use", title_align="left")


def _keys(before: Scrape | None, now: Scrape) -> Panel | None:
    """Shares of the tokens, of the last seconds or, where nothing came in them, ever."""
    name = "headrace:tenant_tokens_total"
    if not now.has(name):
        return None
    rates = {} if before is None else rates_by(before, now, name, "tenant")
    shares = rates if sum(rates.values()) else now.by(name, "tenant")
    waiting = now.by("headrace:tenant_requests_waiting", "tenant")
    table = Table(box=None, expand=True, padding=(0, 1), show_edge=False)
    table.add_column("key", no_wrap=True, min_width=6, max_width=24)
    table.add_column("share of tokens", no_wrap=True, overflow="crop")
    for column in ("tokens/s", "waiting"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    whole = sum(shares.values()) or 1.0
    for tenant, value in sorted(shares.items(), key=lambda pair: -pair[1])[:_MOST_KEYS]:
        share = Text(f"{value / whole:4.0%} ").append_text(_bar(value / whole, "cyan"))
        table.add_row(Text(tenant), share, f"{rates.get(tenant, 0.0):,.0f}", f"{waiting.get(tenant, 0.0):,.0f}")
    rest = len(shares) - _MOST_KEYS
    title = "keys" if rest <= 0 else f"keys (and {rest} more)"
    return Panel(table, title=title, title_align="left")


def _pairs() -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", style="bold", no_wrap=True)
    return table


def _share(before: Scrape | None, now: Scrape, part: str, whole: str) -> str:
    """Of the last seconds, or ever where nothing came in them."""
    for old in (before, None):
        parts = [now.total(name) - (old.total(name) if old is not None else 0.0) for name in (part, whole)]
        if parts[1] > 0 and parts[0] >= 0:
            return f"{parts[0] / parts[1]:.0%}"
    return "–"


def _bar(share: float, style: str) -> Text:
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    full, part = divmod(eighths, 8)
    bar = "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")
    text = Text(bar, style=style)
    text.append("·" * (_BAR - len(bar)), style="dim")
    return text


def _spark(values: Sequence[float]) -> str:
    most = max(values, default=0.0)
    shown = values[-_SPARKS:]
    return "".join(_BLOCKS[math.ceil(8 * value / most) if most else 0] for value in shown)


def _estimate(seconds: float, bounds: Sequence[float]) -> str:
    """A quantile; of one in the lowest or the highest bucket no more is known than the bucket's bound."""
    if bounds and seconds <= min(bounds):
        return f"<{_duration(min(bounds))}"
    if bounds and seconds >= max(bounds):
        return f">{_duration(max(bounds))}"
    return _duration(seconds)


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s"
