"""What a report says in numbers: what the runs are, what was measured, how they trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baselines.errors import UserError
from baselines.metrics.comparison import (
    Entry,
    best_of,
    load_alike,
    measured,
    settings_that_differ,
)
from baselines.metrics.report import LAST, NOTHING, cell
from baselines.pages.charts import Curve, chart
from baselines.pages.subjects import Subject
from baselines.training.stats import read_panels, read_stats

UNKEPT = "others"


@dataclass(frozen=True)
class Cell:
    """One score: how it reads, and where it stands on the row's scale, in percent of its width."""

    text: str
    best: bool = False
    at: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One metric of all runs; `chance` and `real` are marks on the scale, "" if unknown."""

    title: str
    cells: Sequence[Cell]
    real: Cell
    chance: Cell


@dataclass(frozen=True)
class Metrics:
    """The table of metrics, and what must be known to read it; `problem` if there is none."""

    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()
    problem: str = ""


def facts(subject: Subject) -> dict[str, str]:
    """What a run is, by name."""
    run = subject.pipeline.run
    config, stats = run.config, read_stats(subject.directory / "stats.jsonl")
    refine = config.refine
    terms = ", ".join(refine.names)
    found = {
        "host": config.model.name,
        "layout refinement": f"{terms} (Θ of {refine.source})" if terms else "none",
        "images": " → ".join(f"{side}" for side in config.model.image_sizes) + " px",
        "parameters of G": f"{sum(p.numel() for p in run.generator.parameters()):,}",
        "trained on": f"{config.data.name}, batches of {config.optim.batch_size}",
    }
    if stats:
        last = stats[-1]
        found["seen"] = f"{last.get('images', 0):,} images in {last['step']:,} steps"
    return found


def metrics(subjects: Sequence[Subject]) -> Metrics:
    """The newest evaluation that all runs share, a row a metric."""
    paths = [subject.directory for subject in subjects]
    try:
        entries = load_alike(paths)
    except UserError as error:
        return Metrics(problem=str(error))
    rows, apart = [], []
    for name in dict.fromkeys(row for entry in entries for row in entry["metrics"]):
        known = [entry["rows"][name] for entry in entries if name in entry["rows"]]
        if any(one["settings"] != known[0]["settings"] for one in known):
            apart.append(known[0]["title"])
            continue
        row = _row(name, entries, known[0])
        if row is not None:
            rows.append(row)
    counts = entries[0]["protocol"]
    notes = [
        f"{counts['images']:,} captions, {counts['real_images']:,} real images, "
        f"seed {counts['seed']}."
    ]
    notes += [f"{title}: not compared, measured differently." for title in apart]
    told = [row["note"] for entry in entries for row in entry["rows"].values() if row["note"]]
    return Metrics(rows, [*notes, *dict.fromkeys(told)])


def _row(name: str, entries: Sequence[Entry], known: Mapping[str, Any]) -> Row | None:
    scores = [measured(entry["metrics"].get(name, {})) for entry in entries]
    if not any(score and score["value"] is not None for score in scores):
        return None
    every = [entry["metrics"].get(name, {}) for entry in entries]
    real = next((one[LAST] for one in every if LAST in one), None)
    told = next((s for s in scores if s and s.get("chance") is not None), None)
    chance = {"value": told["chance"]} if told else None
    ends = [end for score in [*scores, real, chance] for end in _ends(score)]
    # Shares are seen against all that a share can be; other numbers against what there is.
    low = min([0.0, *ends])
    high = 1.0 if known["percent"] and max(ends) <= 1 else max(ends)
    best = best_of(scores, known["better"])

    def placed(score: Mapping[str, Any] | None, *, best: bool = False) -> Cell:
        text = cell(score, known)
        if text == NOTHING or score is None:
            return Cell(NOTHING)
        start, value, end = _ends(score)
        at, left, right = (100 * (x - low) / ((high - low) or 1) for x in (value, start, end))
        return Cell(text, best, round(at, 2), round(left, 2), round(right, 2))

    cells = [placed(score, best=place == best) for place, score in enumerate(scores)]
    return Row(known["title"], cells, placed(real), placed(chance))


def _ends(score: Mapping[str, Any] | None) -> tuple[float, ...]:
    """The lower end, value and upper end of a score; nothing where it has no value."""
    if score is None or score.get("value") is None:
        return ()
    value = score["value"]
    interval = score.get("interval")
    if interval and None not in interval:
        return interval[0], value, interval[1]
    error = 1.96 * (score.get("error") or 0.0)
    return value - error, value, value + error


def differences(subjects: Sequence[Subject]) -> dict[str, list[Any]]:
    """The settings in which the runs differ, the value of each."""
    return settings_that_differ([subject.directory for subject in subjects])


def curves(subjects: Sequence[Subject]) -> dict[str, list[str]]:
    """A chart for every value of the logs, all runs in each, by panel.

    The generator's first, what belongs to no panel last.
    """
    logs: list[dict[str, list[tuple[float, float]]]] = []
    panels: dict[str, str] = {}
    for subject in subjects:
        panels |= read_panels(subject.directory)
        logs.append(_log(read_stats(subject.directory / "stats.jsonl")))
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for log in logs for name in log):
        lines: dict[str, Curve] = {
            subject.colour: log.get(name, ()) for subject, log in zip(subjects, logs, strict=True)
        }
        panel = panels.get(name, UNKEPT)
        found.setdefault(panel, []).append(chart(name, lines))
    order = sorted(found, key=lambda panel: (panel == UNKEPT, not panel.startswith("G")))
    return {panel: found[panel] for panel in order}


def _log(stats: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    log: dict[str, list[tuple[float, float]]] = {}
    for line in stats:
        for name, value in line.items():
            if name not in ("step", "images") and isinstance(value, int | float):
                log.setdefault(name, []).append((line.get("images", line["step"]), value))
    return log
