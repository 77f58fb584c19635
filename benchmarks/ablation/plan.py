"""What has to be done for the tables, the most informative first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines.json_lines import read_lines
from benchmarks.ablation.runs import DONE, AblationRun, is_trained, marks
from benchmarks.ablation.variants import VARIANTS

MAIN_SEEDS, OTHER_SEEDS = 4, 3
MEASURES = "measures.jsonl"


@dataclass(frozen=True)
class Task:
    """One process's work: `kind` is "encoders", "train" or "measure"; `run` needs it."""

    kind: str
    run: AblationRun

    @property
    def name(self) -> str:
        """The directory it works in."""
        return self.run.encoders if self.kind == "encoders" else self.run.name

    @property
    def label(self) -> str:
        """For messages, and to tell tasks apart."""
        return f"{self.kind} {self.name}"

    def is_done(self, root: Path) -> bool:
        """Whether its result is there."""
        if self.kind == "encoders":
            return (root / self.name / DONE).exists()
        if self.kind == "train":
            return is_trained(self.run, root)
        return is_measured(self.run, root)

    def is_ready(self, root: Path) -> bool:
        """Whether what it builds on is done."""
        if self.kind == "encoders":
            return True
        before = "encoders" if self.kind == "train" else "train"
        return Task(before, self.run).is_done(root)


def is_measured(run: AblationRun, root: Path) -> bool:
    """Whether every snapshot of a whole run has been measured."""
    measured = {line["images"] for line in read_lines(root / run.name / MEASURES)}
    return is_trained(run, root) and all(images in measured for images, _ in marks(run, root))


def planned(
    size: str,
    hosts: Sequence[str],
    variants: Sequence[str],
    objects: Sequence[int],
    seeds: Sequence[int] | None,
) -> list[Task]:
    """Every task in the order of its worth.

    Main rows before single changes, the first host before others, few objects before many; within
    those, a seed of every row before the next seed, so that differences to the control, which are
    paired by seed, are there early.
    """
    runs = []
    for host in hosts:
        for name in variants:
            variant = VARIANTS[name]
            for number in objects:
                if not variant.main and (number > 1 or host != hosts[0]):
                    continue
                chosen = seeds or range(MAIN_SEEDS if variant.main else OTHER_SEEDS)
                runs += [AblationRun(size, host, name, number, seed) for seed in chosen]
    order = list(VARIANTS)
    runs.sort(
        key=lambda run: (
            not VARIANTS[run.variant].main,
            hosts.index(run.host),
            run.objects,
            run.seed,
            order.index(run.variant),
        )
    )
    encoders = {run.encoders: Task("encoders", run) for run in runs}
    tasks = []
    for run in runs:
        first = encoders.pop(run.encoders, None)
        tasks += [first] if first else []
        tasks += [Task("train", run), Task("measure", run)]
    return tasks
