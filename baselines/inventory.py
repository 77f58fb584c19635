"""All runs below a folder at a glance; the command is `python -m baselines.runs`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baselines.cli import Parser
from baselines.config import Config, load_config
from baselines.errors import UserError
from baselines.training.checkpoint import checkpoints, images_of
from baselines.training.lock import owner_of
from baselines.training.stats import read_stats

HIGHER_IS_BETTER = ("R@1", "R@5", "R@10", "is/", "r_precision")
SHOWN_FIRST = ("fid", "text_to_image/R@5")


@dataclass(frozen=True)
class Entry:
    """One run directory.

    status: "training", "stopped" (may go on), "done", "weights only" or what is wrong with it;
    images and total: seen and asked for; best: the best value of the metric that says most, with
    its name; size: of all files, in bytes.
    """

    path: str
    kind: str
    status: str
    images: int
    total: int
    best: str
    size: int


def find_runs(folder: Path) -> Iterator[Path]:
    """Every run directory below `folder`, and `folder` itself if it is one."""
    yield from sorted(path.parent for path in folder.rglob("config.json"))


def describe(run: Path) -> Entry:
    """What there is to know of a run without loading any weights."""
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    try:
        config = load_config(run / "config.json")
        lines = read_stats(run / "stats.jsonl")
    except UserError as error:
        return Entry(str(run), "?", str(error), 0, 0, "", size)
    found = checkpoints(run)
    images = images_of(found[-1]) if found else 0
    kind, total = _kind(config, lines)
    return Entry(str(run), kind, _status(run, images, total), images, total, best(lines), size)


def _kind(config: Config, lines: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """Which command a run is of, and the length of its training in images."""
    if any(name.startswith("DAMSM/") for name in (lines[-1] if lines else ())):
        return "damsm", config.encoder.images
    return config.model.name, config.optim.images


def _status(run: Path, images: int, total: int) -> str:
    owner = owner_of(run)
    if owner:
        return f"training ({owner})"
    if not images:
        return "weights only" if (run / "generator.safetensors").exists() else "nothing saved"
    return "done" if images >= total else "stopped"


def best(lines: Sequence[Mapping[str, Any]]) -> str:
    """The best value of the metric that says most, as "name value at step"."""
    for part in SHOWN_FIRST:
        named = [(line, name) for line in lines for name in line if part in name]
        values = [(float(line[name]), int(line["step"]), name) for line, name in named]
        if values:
            higher = any(part in values[0][2] for part in HIGHER_IS_BETTER)
            value, step, name = (max if higher else min)(values)
            return f"{name} {value:.3g} at step {step}"
    return ""


def table(entries: Sequence[Entry]) -> str:
    """One line a run, in columns."""
    rows = [("run", "model", "status", "images", "best", "size")]
    rows += [
        (
            entry.path,
            entry.kind,
            entry.status,
            f"{entry.images} of {entry.total}",
            entry.best,
            f"{entry.size / 2**20:.1f} MiB",
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = Parser(prog="python -m baselines.runs", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--json", action="store_true", help="for other programs")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        raise UserError(f"{args.folder}: no such folder; give the one that holds your runs")
    entries = [describe(run) for run in find_runs(args.folder)]
    if args.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
    elif entries:
        print(table(entries))
    else:
        print(f"{args.folder}: no runs")
