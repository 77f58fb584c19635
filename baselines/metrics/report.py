"""The result of an evaluation as a table to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FIRST, LAST = ("untrained", "trained"), "real"
TITLES = {"real": "real images"}
NOTHING = "–"
DIGITS = 3


def table(entry: Mapping[str, Any]) -> str:
    """Lay out one evaluation as a Markdown table, and what must be known to read it."""
    metrics, rows = entry["metrics"], entry["rows"]
    columns = ordered({name for scores in metrics.values() for name in scores})
    lines = [["metric", "chance", *(TITLES.get(name, name) for name in columns)]]
    for row, scores in metrics.items():
        facts = rows[row]
        # Chance is that of the best trained images there are, else of the real ones.
        told = next(scores[name] for name in [*columns[-2::-1], *columns] if name in scores)
        cells = [cell({"value": told.get("chance")}, facts)]
        cells += [cell(scores.get(name), facts) for name in columns]
        # Nothing of the kind was stated: scenes of one object have no relations.
        if any(text != NOTHING for text in cells):
            lines.append([facts["title"], *cells])
    counts = entry["protocol"]
    below = ["", f"{counts['images']:,} captions, {counts['real_images']:,} real images."]
    below += list(dict.fromkeys(facts["note"] for facts in rows.values() if facts["note"]))
    below += [f"Left out: {name}, {reason}." for name, reason in entry["left_out"].items()]
    drawn = [name for name in columns if name != LAST]
    parts = by_part(entry, drawn[-1]) if drawn else []
    return "\n".join([*markdown(lines), *parts, *below, *ties(entry)])


def ties(entry: Mapping[str, Any]) -> list[str]:
    """Say what R-precision would be by lot, wherever a wrong caption was as near as the right."""
    lines = []
    for row, scores in entry["metrics"].items():
        for images, score in scores.items():
            by_lot = score.get("facts", {}).get("ties_by_lot")
            if by_lot is not None and abs(by_lot - score["value"]) > 1e-9:
                title = entry["rows"][row]["title"]
                shown = cell({"value": by_lot}, entry["rows"][row])
                lines.append(f"{title}, {images}: {shown} if ties were decided by lot.")
    return lines


def by_part(entry: Mapping[str, Any], images: str) -> list[str]:
    """Lay out what is known of parts (the number of objects, a relation), a table a metric."""
    tables: list[str] = []
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row, scores in entry["metrics"].items():
        by = scores.get(images, {}).get("by")
        if by:
            found.setdefault(row.split("/")[0], {})[row] = by
    for metric, columns in found.items():
        names = [row.partition("/")[2] or row for row in columns]
        head = [
            f"{metric} of {images} images, by",
            *(_unit(n, entry["rows"][r]) for n, r in zip(names, columns, strict=True)),
        ]
        lines = [head]
        for part in dict.fromkeys(part for by in columns.values() for part in by):
            shown = (by.get(part, {}) for by in columns.values())
            values = [{"value": score.get("value")} for score in shown]
            cells = (cell(v, entry["rows"][r]) for v, r in zip(values, columns, strict=True))
            lines.append([part, *cells])
        tables += ["", *markdown(lines)]
    return tables


def _unit(name: str, facts: Mapping[str, Any]) -> str:
    return f"{name} %" if facts["percent"] else name


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Align rows of cells as a Markdown table, the first one as its head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return [
        "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |"
        for line in ruled
    ]


def ordered(names: set[str]) -> list[str]:
    """Sort sets of images: the untrained first, the real ones last."""
    middle = sorted(names - {*FIRST, LAST})
    return [*(n for n in FIRST if n in names), *middle, *(n for n in (LAST,) if n in names)]


def cell(score: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> str:
    """Write a value and its standard error with the digits that the error leaves meaning.

    >>> cell({"value": 0.6104, "error": 0.0218}, {"percent": True})
    '61.0 ± 2.2'
    >>> cell({"value": 0.000312}, {"percent": False})
    '0.000312'
    >>> cell({"value": 0.003, "error": 0.0001}, {"percent": True})
    '0.300 ± 0.010'
    """
    value = (score or {}).get("value")
    if score is None or value is None:
        return NOTHING
    scale = 100 if facts["percent"] else 1
    error = score.get("error")
    if error is None:
        return significant(scale * value)
    # Two digits of the error, the value to the same place; a tenth of a percent is enough.
    places = max(0, 1 - math.floor(math.log10(scale * error))) if error > 0 else DIGITS
    places = min(places, 1) if facts["percent"] and scale * error >= 0.1 else places
    return f"{scale * value:.{places}f} ± {scale * error:.{places}f}"


def significant(value: float, digits: int = DIGITS) -> str:
    """Write a number with `digits` significant digits, never as 0.00.

    >>> significant(26.0783), significant(0.3519), significant(0.0000417), significant(0.0)
    ('26.1', '0.352', '4.17e-05', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, places)}f}"
