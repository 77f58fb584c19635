"""The ablation's results: one file of measurements, a page of tables, plots."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from baselines.files import write_text
from baselines.json_lines import read_lines, write_lines
from baselines.pictures.sheet import save_figure
from benchmarks.ablation.plan import MEASURES
from benchmarks.ablation.statistics import (
    REACHED,
    Entry,
    Estimate,
    curve,
    estimate,
    interpolated,
    paired,
    reached,
)
from benchmarks.ablation.variants import VARIANTS

MARKS = (9_000, 18_000, 36_000)
# At the end of a run: rows of the graded layout, and of the evaluation.
ENDS = {
    "shape": "graded",
    "sharp": "graded",
    "relation_given_both": "graded",
    "arrangement": "graded",
    "layout": "evaluation",
    "r_precision": "evaluation",
    "fid/damsm": "evaluation",
}
KEY = ("size", "host", "variant", "objects", "seed", "images")
Group = tuple[str, str, int]  # size, host, objects
Runs = dict[str, dict[int, list[Entry]]]  # variant -> seed -> its measurements in order


def write_results(root: Path, out: Path) -> str:
    """Gather what the runs below `root` measured into `out`, merged with what lies there.

    Writes `measures.jsonl`, `ABLATION.md` and a plot per group of runs; returns the tables.
    """
    entries = gathered(out / MEASURES, root)
    if not entries:
        return f"nothing is measured yet below {root}"
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / MEASURES, entries)
    groups = grouped(entries)
    text = "\n".join(page(group, runs) for group, runs in sorted(groups.items()))
    write_text(out / "ABLATION.md", text)
    for group, runs in groups.items():
        plot(runs, f"{group[1]}, {group[2]} object(s)", out / plot_name(group))
    return text


def plot_name(group: Group) -> str:
    """Such as cpu-attngan-2.png, beside the page."""
    return "-".join(map(str, group)) + ".png"


def gathered(kept: Path, root: Path) -> list[Entry]:
    """The measurements of a results file and of run directories, each once, in a fixed order."""
    found: dict[tuple[object, ...], Entry] = {}
    for path in [kept, *sorted(root.glob(f"*/{MEASURES}"))]:
        for entry in read_lines(path, is_measurement):
            found[tuple(entry[name] for name in KEY)] = entry
    return [found[key] for key in sorted(found, key=str)]


def is_measurement(entry: Entry) -> bool:
    """Whether a line has what tables need."""
    return isinstance(entry["graded"], dict) and all(
        name in entry for name in (*KEY, "cpu_seconds")
    )


def grouped(entries: Sequence[Entry]) -> dict[Group, Runs]:
    """Entries by size, host and number of objects, then by variant and seed."""
    groups: dict[Group, Runs] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for entry in sorted(entries, key=lambda entry: int(entry["images"])):
        group = entry["size"], entry["host"], entry["objects"]
        groups[group][entry["variant"]][entry["seed"]].append(entry)
    return groups


def page(group: Group, runs: Runs) -> str:
    """A group's plot and three tables: at equal images, at equal CPU time, and the end."""
    size, host, objects = group
    names = [name for name in VARIANTS if name in runs]
    last = max(int(e["images"]) for seeds in runs.values() for es in seeds.values() for e in es)
    marks = [mark for mark in MARKS if mark < 0.9 * last] + [last]
    place = [place_row(name, runs, marks) for name in names]
    header = [f"place at {mark // 1000}k" for mark in marks]
    columns = ["variant", "against", "seeds", *header, f"images to place {REACHED}", "CPU time"]
    equal = [time_row(name, runs, marks) for name in names]
    ends = [end_row(name, runs, last) for name in names]
    return "\n".join(
        [
            f"## {host}, {objects} object(s), size {size}",
            "",
            "At equal images; mean ± standard deviation over seeds, and the difference to the "
            "control, paired by seed, ± its standard error and with its 95 % bootstrap interval.",
            "",
            table(columns, place),
            "",
            "At equal CPU time: place at the time at which the control has seen as many images.",
            "",
            table(["variant", "seeds", *header], equal),
            "",
            f"At the end, {last:,} images.",
            "",
            table(["variant", "seeds", *ENDS], ends),
            "",
            f"![Place against images seen, {host}, {objects} object(s)]({plot_name(group)})",
            "",
        ]
    )


def place_row(name: str, runs: Runs, marks: Sequence[int]) -> list[str]:
    """Place at every mark, images until a threshold, CPU time against the control."""
    curves = {seed: curve(entries, "images", "place") for seed, entries in runs[name].items()}
    control = VARIANTS[name].control if name != VARIANTS[name].control else None
    others = runs.get(control, {}) if control else {}
    theirs = {seed: curve(entries, "images", "place") for seed, entries in others.items()}
    cells = []
    for mark in marks:
        ours = {seed: interpolated(c, mark) for seed, c in curves.items()}
        rivals = {seed: interpolated(c, mark) for seed, c in theirs.items()}
        cells.append(cell(estimate(list(ours.values())), paired(ours, rivals)))
    images = estimate([reached(c) / 1000 for c in curves.values()])
    when = "–" if math.isnan(images.mean) else f"{images.mean:.1f}k ({images.count})"
    against = VARIANTS[control].title if control else "–"
    return [VARIANTS[name].title, against, str(len(curves)), *cells, when, cost(runs[name], others)]


def cost(ours: Mapping[int, list[Entry]], control: Mapping[int, list[Entry]]) -> str:
    """CPU time of whole runs over that of the control's, paired by seed."""
    ratios = [
        ours[seed][-1]["cpu_seconds"] / control[seed][-1]["cpu_seconds"]
        for seed in ours.keys() & control.keys()
        if ours[seed][-1]["cpu_seconds"]
        and control[seed][-1]["cpu_seconds"]
        and ours[seed][-1]["images"] == control[seed][-1]["images"]
    ]
    return "–" if not ratios else f"{100 * (estimate(ratios).mean - 1):+.0f} %"


def time_row(name: str, runs: Runs, marks: Sequence[int]) -> list[str]:
    """Place when as much CPU time has gone by as the control takes to a mark."""
    control = VARIANTS[name].control
    cells = []
    for mark in marks:
        found = []
        for seed, entries in runs[name].items():
            theirs = runs.get(control, {}).get(seed, [])
            clock = sorted(
                (float(e["images"]), float(e["cpu_seconds"])) for e in theirs if e["cpu_seconds"]
            )
            points = curve(entries, "cpu_seconds", "place")
            found.append(interpolated(points, interpolated(clock, mark)))
        cells.append(cell(estimate(found)))
    return [VARIANTS[name].title, str(len(runs[name])), *cells]


def end_row(name: str, runs: Runs, last: int) -> list[str]:
    """What finished runs come to."""
    control = VARIANTS[name].control if name != VARIANTS[name].control else None
    cells = []
    for row, kind in ENDS.items():
        ours = end_values(runs[name], kind, row, last)
        theirs = end_values(runs.get(control, {}), kind, row, last) if control else {}
        cells.append(cell(estimate(list(ours.values())), paired(ours, theirs)))
    return [VARIANTS[name].title, str(len(runs[name])), *cells]


def end_values(
    seeds: Mapping[int, list[Entry]], kind: str, row: str, last: int
) -> dict[int, float]:
    """A row at the last mark, by seed."""
    found = {}
    for seed, entries in seeds.items():
        entry = entries[-1]
        value = entry.get(kind, {}).get(row)
        if entry["images"] == last and value is not None:
            found[seed] = float(value)
    return found


def cell(value: Estimate, difference: Estimate | None = None, digits: int = 3) -> str:
    """Mean ± spread, and the paired difference with its standard error and interval."""
    if math.isnan(value.mean):
        return "–"
    text = f"{value.mean:.{digits}f}"
    if not math.isnan(value.spread):
        text += f" ± {value.spread:.{digits}f}"
    if difference is not None and not math.isnan(difference.mean):
        text += f" ({difference.mean:+.{digits}f}"
        if not math.isnan(difference.low):
            text += f" ± {difference.error:.{digits}f}"
            text += f" [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"
        text += ")"
    return text


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]]
    return "\n".join(lines)


def plot(runs: Runs, title: str, path: Path) -> None:
    """Place against images: the mean over seeds, and every seed as a thin line."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(name for name in VARIANTS if name in runs):
        curves = [curve(entries, "images", "place") for entries in runs[name].values()]
        for points in curves:
            axes.plot(*zip(*points, strict=True), color=f"C{number % 10}", linewidth=0.5, alpha=0.5)
        dashes = ("-", "--", ":")[number // 10 % 3]  # there are ten colours
        common = sorted(set.intersection(*({x for x, _ in points} for points in curves)))
        means = [estimate([dict(points)[x] for points in curves]).mean for x in common]
        axes.plot(common, means, dashes, color=f"C{number % 10}", label=VARIANTS[name].title)
    axes.set_xlabel("images seen")
    axes.set_ylabel("place: stated colours at the stated place")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(fontsize=7, loc="outside right upper")
    save_figure(figure, path)
