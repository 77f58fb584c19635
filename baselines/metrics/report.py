"""The result of an evaluation as a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("untrained", "trained", "real")
TITLES = {"untrained": "untrained", "trained": "trained", "real": "real images"}
NOTHING = "–"
PERCENTAGES = ("r_precision", "layout")
NAMES = {
    "r_precision": "R-precision % ↑",
    "layout": "layout accuracy % ↑ (whole caption)",
    "fid/damsm": "Fréchet distance ↓ (damsm features: not FID)",
}
PREFIXES = {
    "fid": "FID ↓ ({})",
    "is": "Inception Score ↑ ({})",
    "layout": "- {} %",
    "localisation": "localisation of words ↑ ({})",
}


def table(report: Mapping[str, Any]) -> str:
    """The metrics of `evaluation.json` as a Markdown table, and what must be known to read it."""
    metrics = report["metrics"]
    columns = [name for name in COLUMNS if any(name in scores for scores in metrics.values())]
    rows = [["metric", "chance", *(TITLES[name] for name in columns)]]
    for row, scores in metrics.items():
        percent = row.split("/")[0] in PERCENTAGES
        chance = scores.get("trained", scores.get("real", {})).get("chance")
        cells = [_cell({"value": chance}, percent)]
        cells += [_cell(scores.get(name), percent) for name in columns]
        # Nothing of the kind was stated: scenes of one object have no relations.
        if any(cell != NOTHING for cell in cells):
            rows.append([_title(row), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines += ["", f"{report['images']:,} images, {report['real_images']:,} real ones."]
    if any(row.startswith("fid") for row in metrics):
        lines.append("The Fréchet distance of real images is that of their two halves.")
    if "layout" in metrics:
        lines.append("Chance of layout accuracy: the trained images with each other's captions.")
    lines += [f"Left out: {name}, {reason}." for name, reason in report["left_out"].items()]
    return "\n".join(lines)


def _title(row: str) -> str:
    if row in NAMES:
        return NAMES[row]
    kind, _, rest = row.partition("/")
    return PREFIXES.get(kind, kind + " {}").format(rest)


def _cell(score: Mapping[str, float | None] | None, percent: bool) -> str:
    value = (score or {}).get("value")
    if score is None or value is None:
        return NOTHING
    scale, digits = (100, 1) if percent else (1, 2)
    std = score.get("std")
    return f"{scale * value:.{digits}f}" + ("" if std is None else f" ± {scale * std:.{digits}f}")
