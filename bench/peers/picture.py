"""The picture of a run: for each row, headrace and the best peer as bars, with the target between them."""

from __future__ import annotations

from pathlib import Path

from peers.results import Row

_OURS, _PEER, _INK, _GRID = "#1f6f8b", "#c9ced3", "#20262b", "#e6e9ec"
_ROW_INCHES = 0.34


def draw(rows: list[Row], path: Path, title: str) -> None:
    """Write an SVG or PNG, by the path's ending. Bars are speeds relative to the best peer of the row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.ratio]
    figure, axes = pyplot.subplots(figsize=(9, 1.3 + _ROW_INCHES * max(len(shown), 1)), layout="constrained")
    for at, row in enumerate(shown):
        speed, wanted = _speeds(row)
        axes.barh(at - 0.17, speed, 0.34, color=_OURS, label="headrace" if at == 0 else None)
        axes.barh(at + 0.19, 1.0, 0.30, color=_PEER, label="the best peer" if at == 0 else None)
        axes.plot(
            [wanted, wanted], [at - 0.4, at + 0.4], color=_INK, linewidth=1.2, label="target" if at == 0 else None
        )
        axes.text(speed, at - 0.17, f" {speed:.2g} ×", va="center", fontsize=7.5, color=_INK)
        peer = "" if row.best_entry is None else f" {row.best_entry.label}"
        axes.text(1.0, at + 0.19, peer, va="center", fontsize=6.5, color="#6a737b")
    names = [f"{row.workload}  ·  {row.model}, {row.bits}-bit" for row in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=8, color=_INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max([2.0, *(max(_speeds(row)) for row in shown)]))
    axes.set_xlabel("times the best peer (more is better; time and memory are turned over)", fontsize=8, color=_INK)
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(length=0, labelsize=8)
    if shown:
        figure.legend(loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150, facecolor="white")
    pyplot.close(figure)


def _speeds(row: Row) -> tuple[float, float]:
    """Ours and the target, as how many times better than the peer."""
    assert row.ratio is not None
    return (1 / row.ratio, 1 / row.target.ratio) if row.smaller_is_better else (row.ratio, row.target.ratio)
