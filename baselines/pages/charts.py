"""Curves of several runs in one small chart, as SVG to stand inside a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

POINTS = 160
Curve = Sequence[tuple[float, float]]


def thinned(curve: Curve, points: int = POINTS) -> list[tuple[float, float]]:
    """A curve of at most `points` points: means over stretches of equal numbers of points.

    >>> thinned([(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0)], 2)
    [(0.5, 2.0), (2.5, 6.0)]
    """
    size = -(-len(curve) // points)
    if size <= 1:
        return list(curve)
    blocks = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [
        (sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block))
        for block in blocks
    ]


def chart(title: str, curves: Mapping[str, Curve]) -> str:
    """An SVG element with a line for every curve, by its CSS colour.

    Args:
        title: above it.
        curves: by colour, (images, value) in order; one without points is left out.
    """
    # Text stays text, and the same chart is the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "alr-layers", "font.size": 8}):
        figure = Figure(figsize=(3.1, 2.0), layout="constrained")
        axes = figure.add_subplot()
        for colour, curve in curves.items():
            if curve:
                xs, ys = zip(*thinned(curve), strict=True)
                marker = "o" if len(xs) < 12 else None
                axes.plot(xs, ys, color=colour, linewidth=1.3, marker=marker, markersize=2.5)
        axes.set_title(title, fontsize=8.5, loc="left")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelsize=7, length=2)
        axes.grid(alpha=0.25, linewidth=0.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
