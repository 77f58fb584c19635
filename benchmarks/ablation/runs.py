"""One run of the ablation: a directory that is trained, left at any moment, and gone on with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from baselines import train
from baselines.json_lines import append_line, read_lines
from baselines.training.checkpoint import save_weights
from baselines.training.distributed import started
from baselines.training.objective import GANObjective
from baselines.training.recorder import Hook
from benchmarks.ablation.variants import SIZES, VARIANTS, build_config

MARKS = "marks"
TIMES = "times.jsonl"
DONE = ".done"  # beside encoders that were trained to their end


@dataclass(frozen=True)
class AblationRun:
    """Which run it is; `name` is its directory below the ablation's."""

    size: str
    host: str
    variant: str
    objects: int
    seed: int

    @property
    def name(self) -> str:
        """Such as cpu-attngan-damsm-alr-1-s0."""
        return f"{self.size}-{self.host}-{self.variant}-{self.objects}-s{self.seed}"

    @property
    def encoders(self) -> str:
        """Directory of the encoders, which all runs of a size and number of objects share."""
        return f"{self.size}-encoders-{self.objects}"


def marks(run: AblationRun, root: Path) -> list[tuple[int, Path]]:
    """The snapshots of a run: images seen, and the averaged generator at that time.

    Those that a signal left between two marks are passed over.
    """
    size = SIZES[run.size]
    batch = build_config(size, VARIANTS[run.variant], run.host, run.objects, run.seed).optim
    every = round(size.every / batch.batch_size) * batch.batch_size
    found = sorted((root / run.name / MARKS).glob("*.safetensors"))
    counts = [(int(path.stem), path) for path in found]
    return [(n, path) for n, path in counts if n % every == 0 or n >= size.images[run.objects]]


def times(directory: Path) -> dict[int, float]:
    """CPU seconds of training by images seen, over all stretches of the run."""
    seconds: dict[int, float] = {}
    before = 0.0
    for line in read_lines(directory / TIMES):
        if line["cpu_seconds"] is None:  # a stretch begins: what came before adds up
            before = max((v for k, v in seconds.items() if k <= line["images"]), default=0.0)
        else:
            seconds[line["images"]] = before + line["cpu_seconds"]
    return seconds


def is_trained(run: AblationRun, root: Path) -> bool:
    """Whether the last snapshot is there."""
    found = marks(run, root)
    return bool(found) and found[-1][0] >= SIZES[run.size].images[run.objects]


def train_run(run: AblationRun, root: Path) -> None:
    """Train a run to its end, or to a signal; starting it again goes on from there."""
    size, variant = SIZES[run.size], VARIANTS[run.variant]
    directory = root / run.name
    config = build_config(size, variant, run.host, run.objects, run.seed)
    batch = config.optim.batch_size

    def hooks(objective: GANObjective) -> Iterator[Hook]:
        variant.prepare(objective)
        directory.joinpath(MARKS).mkdir(parents=True, exist_ok=True)
        clock: dict[str, float] = {}

        def snapshot(step: int, images: int) -> dict[str, float]:
            seconds = round(time.process_time() - clock["start"], 2)
            append_line(directory / TIMES, {"images": images, "cpu_seconds": seconds})
            path = directory / MARKS / f"{images:09d}.safetensors"
            save_weights(objective.average.network, path, images=images, **asdict(run))
            return {}

        def begin(step: int, images: int) -> dict[str, float]:
            """At the first step of a stretch: only training is timed, not what loading costs."""
            if not clock:
                clock["start"] = time.process_time()
                append_line(directory / TIMES, {"images": images, "cpu_seconds": None})
            return {}

        yield Hook(1, begin)
        yield Hook(round(size.every / batch), snapshot)

    with started(config.run.device) as world:
        train.run(config, directory, root / run.encoders, world, hooks=hooks)
