"""`evaluation.json`: what it holds, and how results are added to it.

The file is `{"schema": 2, "evaluations": [entry, ...]}`, the newest entry last. Results of the same
subject, protocol and environment share an entry: measuring further metrics adds rows to it,
measuring one again replaces its values; anything else is appended. An entry is

- `subject`: what was measured. `run` (directory), or `images` (folder) with their `captions` and
  `fingerprint`; of a run `model`, `weights`
  (`file`, `hash`), `encoders` (hash of `text` and `image`), `vocabulary`, `legacy_mask`,
  `captions` (`count`, `max_words`, `truncated`, `dropped`).
- `protocol`: what must agree before entries are compared. `data`, `fingerprint` (of images and
  captions by content; of a folder, of captions and reference), `split`, `size` (pixels), `images`
  (captions drawn), `real_images`, `samples` (images of each caption), `seed`, `truncation` (of the
  noise, where there was any).
- `environment`: `device`, `batch_size`, `arithmetic`, `versions`: they move the last digits.
- `metrics`: row → set of images ("real", "untrained", "trained", ...) → score. A score has `value`
  and, where known, `error` (standard error of the value), `interval` (95 %, two numbers),
  `spread` (standard deviation over folds or subsets, as published), `chance`, `count` (of how
  many it is the mean), `facts` (further numbers by name) and `by` (part → score: by the number of
  objects, by relation). What is not a number is null.
- `rows`: row → `metric`, `title`, `percent` (whether to show it as one), `better` ("higher",
  "lower" or ""), `note`, `settings` (what else must agree: encoders, extractor, candidates, ...).
- `left_out`: metric → why it was not measured.
- `warnings`: list of {`metric`, `reason`}.
- `seconds`: of the last measurement.

Files of the first version hold one report without `schema`; it is kept as the first entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.errors import UserError
from baselines.files import alone, write_atomic
from baselines.metrics.entry_shape import entry_fault

if TYPE_CHECKING:
    from baselines.metrics.spec import Score

SCHEMA = 2
RESULT = "evaluation.json"
SHARED = ("subject", "protocol", "environment")


def plain(score: Score) -> dict[str, Any]:
    """Give a score as JSON has it: without what is not known, and null for NaN.

    >>> from baselines.metrics.spec import Score
    >>> plain(Score(float("nan"), count=3))
    {'value': None, 'count': 3}
    """
    found: dict[str, Any] = {}
    for part in fields(score):
        value = getattr(score, part.name)
        if part.name == "by":
            value = {name: plain(inner) for name, inner in value.items()}
        elif part.name == "facts":
            value = {name: _finite(number) for name, number in value.items()}
        elif part.name == "interval" and value is not None:
            value = [_finite(end) for end in value]
        else:
            value = _finite(value)
        if part.name == "value" or value not in (None, {}):
            found[part.name] = value
    return found


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def load_entries(path: Path) -> list[dict[str, Any]]:
    """Read all entries of a file, oldest first; none where there is no file.

    Raises:
        UserError: the file is something else.
    """
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); move it out of the way") from error
    if isinstance(content, dict) and content.get("schema") == SCHEMA:
        return _checked(path, content.get("evaluations"))
    if isinstance(content, dict) and "metrics" in content and "schema" not in content:
        return [content]
    raise UserError(f"{path}: not a file of evaluations; move it out of the way")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _checked(path: Path, entries: Any) -> list[dict[str, Any]]:
    """The entries themselves, each with all that its readers rely on."""
    if not isinstance(entries, list):
        raise UserError(f"{path}: holds no list of evaluations; move it out of the way")
    for number, entry in enumerate(entries, 1):
        # One of the first version, without a protocol, is kept and read by nobody.
        if isinstance(entry, dict) and "protocol" not in entry:
            continue
        if fault := entry_fault(entry):
            raise UserError(
                f"{path}: evaluation {number} is damaged: {fault}; mend it, or move the file out "
                "of the way"
            )
    return entries


def store(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Add an entry to the file, merged into the one of the same settings; returns what it became.

    Evaluations of one run that end at the same time all keep their results.

    Raises:
        UserError: there is a file of something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        entries = load_entries(path)
        merged = dict(entry)
        for place, old in enumerate(entries):
            if _belongs(old, entry):
                merged = _merge(old, entry)
                del entries[place]
                break
        content = {"schema": SCHEMA, "evaluations": [*entries, merged]}
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomic(path, lambda file: file.write(text.encode()))
    return merged


def _belongs(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if any(part not in old or old[part] != new[part] for part in SHARED):
        return False
    shared = old["rows"].keys() & new["rows"].keys()
    return all(old["rows"][row]["settings"] == new["rows"][row]["settings"] for row in shared)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    metrics = dict(old["metrics"])
    for row, scores in new["metrics"].items():
        metrics[row] = {**metrics.get(row, {}), **scores}
    measured = {facts["metric"] for facts in new["rows"].values()}
    left_out = {**old["left_out"], **new["left_out"]}
    kept = [w for w in old["warnings"] if w not in new["warnings"]]
    return {
        **new,
        "metrics": metrics,
        "rows": {**old["rows"], **new["rows"]},
        "left_out": {name: why for name, why in left_out.items() if name not in measured},
        "warnings": [*kept, *new["warnings"]],
    }
