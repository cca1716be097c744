"""A picture of one or two runs: what came each second, and how the latencies are spread. Plain SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from headrace.cli.load.figures import LATENCIES

_COLOURS = ("#0b6b74", "#b0590b")
_WIDTH, _HEIGHT = 352, 200
_LEFT, _TOP, _RIGHT, _BOTTOM = 74, 34, 14, 30
_Points = list[tuple[float, float]]


def draw(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The SVG of one run or two, each with its name."""
    panels: list[tuple[str, str, str, Callable[[Mapping[str, Any]], _Points]]] = [
        ("Output tokens per second", "s", "", lambda run: _over_time(run, "tokens_per_second")),
        ("Open requests", "s", "", lambda run: _over_time(run, "open_requests")),
        *(
            (
                title,
                "% of them",
                " ms",
                lambda run, name=name: [*zip(run["percentiles"], run["curves_ms"][name], strict=True)],
            )
            for name, title in LATENCIES.items()
        ),
    ]
    parts = []
    for number, (title, across, unit, points) in enumerate(panels):
        x, y = number % 2 * _WIDTH, number // 2 * _HEIGHT + 24
        parts.append(
            f'<g transform="translate({x} {y})">{_panel(title, across, unit, [points(r) for _, r in runs])}</g>'
        )
    names = "".join(
        f'<tspan fill="{colour}" font-weight="bold" dx="{14 * bool(at)}">{escape(name)}</tspan>'
        for at, ((name, _), colour) in enumerate(zip(runs, _COLOURS, strict=False))
    )
    width, height = 2 * _WIDTH, 3 * _HEIGHT + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="#fff"/><text x="16" y="22" font-size="13">{names}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _over_time(run: Mapping[str, Any], name: str) -> _Points:
    return [*zip(run["timeline"]["seconds"], run["timeline"][name], strict=True)]


def _panel(title: str, across: str, unit: str, lines: Sequence[_Points]) -> str:
    top = _round_up(max((y for line in lines for _, y in line), default=0) or 1)
    right = max((x for line in lines for x, _ in line), default=0) or 1
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> str:
        return f"{_LEFT + x / right * width:.1f} {_TOP + height - y / top * height:.1f}"

    parts = [f'<text x="{_LEFT}" y="{_TOP - 12}" font-weight="bold">{escape(title)}</text>']
    for share in (0, 0.5, 1):
        at = _TOP + height - share * height
        parts.append(f'<path d="M{_LEFT} {at}h{width}" stroke="#d5dcdc"/>')
        label = f"{share * top:,.6g}{unit}"
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end" fill="#53605f">{label}</text>')
        label = f"{share * right:,.{1 if right < 20 else 0}f}".removesuffix(".0") + (f" {across}" if share == 1 else "")
        anchor = ("start", "middle", "end")[int(2 * share)]
        x = _LEFT + share * width
        parts.append(f'<text x="{x}" y="{_HEIGHT - 12}" text-anchor="{anchor}" fill="#53605f">{label}</text>')
    for line, colour in zip(lines, _COLOURS, strict=False):
        path = "L".join(place(x, y) for x, y in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
    return "".join(parts)


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15 …"""
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(digit * power for digit in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if digit * power >= value * 0.9999)
