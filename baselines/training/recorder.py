"""What happens between the steps of a run: progress, log lines, hooks, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from baselines.config import Config
from baselines.training.distributed import World
from baselines.training.stats import Means, StatsWriter
from baselines.training.terms import Term


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps made, and images seen by all ranks together."""

    step: int = 0
    images: int = 0


@dataclass(frozen=True)
class Hook:
    """Something done every so many steps and at the end: grids, validation. Main rank only.

    `run(step, images)` returns values for the log, or none.
    """

    every: int
    run: Callable[[int, int], Mapping[str, float]]


class Recorder:
    """Keeps the means of the terms, and on the main rank writes, draws and saves at intervals."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        world: World,
        hooks: Sequence[Hook],
        save: Callable[[Progress], None],
        progress: Progress,
        total_images: int,
    ) -> None:
        self.settings, self.world, self.hooks, self.save = config.run, world, hooks, save
        self.means = Means()
        self.panels: dict[str, str] = {}
        self.in_bar: dict[str, None] = {}  # a set in order
        self.stats = None
        if world.is_main:
            self.stats = StatsWriter(
                run_dir, resume_step=progress.step, tensorboard=config.run.tensorboard
            )
        self.bar = tqdm(
            total=total_images,
            initial=progress.images,
            unit="img",
            desc="training",
            dynamic_ncols=True,
            disable=not world.is_main,
            mininterval=1.0,
        )
        self.flushed, self.clock = progress, time.perf_counter()

    def add(self, step: int, terms: Sequence[Term]) -> None:
        """Add the terms of one phase."""
        self.means.add(step, {term.name: term.value for term in terms})
        self.panels |= {term.name: term.panel for term in terms if term.name not in self.panels}
        self.in_bar |= {term.name: None for term in terms if term.in_bar}

    def step_done(self, progress: Progress, *, last: bool) -> None:
        """Do what is due after a step; everything that is, if it is the last.

        Raises:
            NonFiniteError: before anything is saved.
        """
        self.bar.update(progress.images - self.bar.n)
        saving = last or progress.step % self.settings.checkpoint_every == 0
        if self.world.device.type == "cpu":
            # Looking costs nothing here; on a GPU it would wait for the device.
            self.means.check()
        if saving or progress.step % self.settings.log_every == 0:
            self._log(progress)
        if self.stats is None:
            return
        for hook in self.hooks:
            if last or progress.step % hook.every == 0:
                report = hook.run(progress.step, progress.images)
                if report:
                    self.stats.write(progress.step, report)
        if saving:
            self.save(progress)

    def close(self) -> None:
        """End the bar and the log."""
        self.bar.close()
        if self.stats is not None:
            self.stats.close()

    def _log(self, progress: Progress) -> None:
        means = self.means.flush()
        now = time.perf_counter()
        rate = (progress.images - self.flushed.images) / (now - self.clock)
        self.flushed, self.clock = progress, now
        if self.stats is not None:
            self.stats.write(
                progress.step, {"images": progress.images, "images_per_second": rate, **means}
            )
            self.stats.describe(self.panels)
            shown = {name: means[name] for name in self.in_bar if name in means}
            self.bar.set_postfix_str(summary(shown))


def summary(values: Mapping[str, float]) -> str:
    """Values by the name of their phase, short enough for the bar: the last of each phase."""
    shown = {name.split("/")[0]: value for name, value in values.items()}
    return " ".join(f"{phase}={value:.2f}" for phase, value in shown.items())
