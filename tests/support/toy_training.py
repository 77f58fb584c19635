"""The training loop on a linear network: milliseconds a step, everything else is real."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from baselines.config import Config, OptimConfig, RunConfig
from baselines.data.loader import Batch, PositionSampler
from baselines.data.source import DataError
from baselines.data.workers import BatchLoader
from baselines.training.distributed import World
from baselines.training.loop import Phase, train
from baselines.training.recorder import Progress
from baselines.training.terms import PhaseLoss

BATCH = 4


class Samples(Dataset[Tensor]):
    """Random pixels by position; `broken` cannot be read, and each takes `seconds`."""

    def __init__(self, *, broken: int = -1, seconds: float = 0.0) -> None:
        self.broken, self.seconds = broken, seconds

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        _, position = place
        time.sleep(self.seconds)
        if position == self.broken:
            raise DataError(f"images/{position}.jpg cannot be read: mend it or leave it out")
        return torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(position))


def collate(images: list[Tensor]) -> Batch:
    """Every image has the one-word caption 1."""
    ones = torch.ones(len(images), dtype=torch.int64)
    keys = tuple(str(number) for number in range(len(images)))
    return Batch(torch.stack(images), ones[:, None], ones, ones, keys, ones)


def loader(
    samples: Samples, done: int, world: World, *, batch_size: int = BATCH, workers: int = 0
) -> Iterable[Batch]:
    """Batches as `training_loader` deals them out."""
    sampler = PositionSampler(
        len(samples), seed=0, start=done, rank=world.rank, world=world.size
    )  # fmt: skip
    return BatchLoader(
        samples, batch_size=batch_size, collate=collate, finish=lambda batch: batch,
        batch_bytes=0, sampler=sampler, workers=workers,
    )  # fmt: skip


class ToyObjective:
    """Two phases without norms or noise: a reader of images, and a scale of what it reads."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.reader, self.scale = nn.Linear(12, 1).double(), nn.Linear(1, 1).double()
        self.networks = {"reader": self.reader, "scale": self.scale}
        self.phases = [
            Phase("R", torch.optim.SGD(self.reader.parameters(), lr=0.1), self.loss),
            Phase("S", torch.optim.SGD(self.scale.parameters(), lr=0.1), self.loss),
        ]
        self.seen: list[Tensor] = []

    def begin(self, batch: Batch, number: int, part: int = 0) -> Tensor:
        self.seen.append(batch.images.flatten(1))
        return batch.images.flatten(1).double()

    def loss(self, images: Tensor) -> PhaseLoss:
        return PhaseLoss((self.scale(self.reader(images)) - 3).square().mean(), [])

    def after(self, number: int) -> None:
        """Nothing to average."""


def train_toy(
    run_dir: Path,
    steps: int,
    *,
    objective: ToyObjective | None = None,
    samples: Samples | None = None,
    workers: int = 0,
    world: World | None = None,
    batch_size: int = BATCH,
    accumulate: int = 1,
    checkpoint_every: int = 1000,
    **options: object,
) -> Progress:
    """Train `steps` steps in `run_dir`."""
    world, samples = world or World(), samples or Samples()

    def batches(done: int) -> Iterator[Batch]:
        return iter(loader(samples, done, world, batch_size=batch_size, workers=workers))

    return train(
        objective or ToyObjective(),
        batches,
        Config(
            optim=OptimConfig(batch_size=batch_size),
            run=RunConfig(checkpoint_every=checkpoint_every, log_every=5, device="cpu"),
        ),
        run_dir,
        world,
        total_images=steps * batch_size * accumulate * world.size,
        batch_size=batch_size,
        accumulate=accumulate,
        **options,
    )
