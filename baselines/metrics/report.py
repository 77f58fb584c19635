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
    return "\n".join([*markdown(lines), *below])


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
