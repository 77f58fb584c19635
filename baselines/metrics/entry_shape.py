"""Whether an entry of `evaluation.json` is one: the parts that its readers rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Shape: TypeAlias = "type | tuple[type, ...] | Mapping[str, Shape] | Every"


@dataclass(frozen=True)
class Every:
    """A JSON object of any names, whose values all have one shape."""

    shape: Shape


NUMBER = (int, float)
MAYBE = (int, float, type(None))
# "?" at the end of a name: it may be missing.
SCORE: dict[str, Shape] = {
    "value": MAYBE, "error?": NUMBER, "interval?": list, "spread?": NUMBER, "chance?": NUMBER,
    "count?": NUMBER, "facts?": Every(MAYBE),
}  # fmt: skip
SCORE["by?"] = Every(SCORE)
ENTRY: dict[str, Shape] = {
    "subject": dict,
    "protocol": {
        "data": {"name": str}, "fingerprint": str, "images": int, "real_images": int, "seed": int,
    },
    "environment": dict,
    "metrics": Every(Every(SCORE)),
    "rows": Every(
        {
            "metric": str, "title": str, "percent": bool, "better": str, "note": str,
            "settings": dict,
        }
    ),
    "left_out": Every(str),
    "warnings": list,
}  # fmt: skip


def entry_fault(entry: Any) -> str:
    """What is wrong with an entry, in words; "" if nothing is.

    >>> entry_fault([])
    'the entry is [], expected an object'
    """
    fault = _fault(entry, ENTRY, "")
    if fault:
        return fault
    for row, scores in entry["metrics"].items():
        if row not in entry["rows"]:
            return f"rows has no {row!r}, which metrics has"
        for name, score in scores.items():
            ends = score.get("interval", [0, 0])
            if len(ends) != 2 or any(_fault(end, MAYBE, "") for end in ends):
                return f"metrics.{row}.{name}.interval is {ends!r:.60}, expected two numbers"
    return ""


def _fault(value: Any, shape: Shape, where: str) -> str:
    if isinstance(shape, (Every, Mapping)):
        return _object_fault(value, shape, where)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    # True is an int to Python.
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    return "" if fits else _mismatch(value, kinds[0], where)


def _object_fault(value: Any, shape: Mapping[str, Shape] | Every, where: str) -> str:
    if not isinstance(value, dict):
        return _mismatch(value, dict, where)
    if isinstance(shape, Every):
        parts, missing = dict.fromkeys(value, shape.shape), []
    else:
        missing = [name for name in shape if not name.endswith("?") and name not in value]
        named = {name.removesuffix("?"): part for name, part in shape.items()}
        parts = {name: part for name, part in named.items() if name in value}
    if missing:
        return f"{where or 'the entry'} has no {missing[0]!r}"
    faults = (_fault(value[k], part, f"{where}.{k}" if where else k) for k, part in parts.items())
    return next(filter(None, faults), "")


def _mismatch(value: Any, kind: type, where: str) -> str:
    words = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return f"{where or 'the entry'} is {value!r:.60}, expected {words.get(kind, 'a number')}"
