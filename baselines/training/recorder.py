"""What happens between the steps of a run: progress, log lines, hooks, checkpoints."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from tqdm import tqdm

from baselines.config import Config
from baselines.training.distributed import World
from baselines.training.stats import Means, StatsWriter
from baselines.training.terms import Term
from baselines.training.trackers import open_trackers

logger = logging.getLogger(__name__)


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


class Display:
    """Standard error as a progress bar needs it: one that is closed ends the bar, not the run."""

    def __init__(self) -> None:
        self.encoding = getattr(sys.stderr, "encoding", None)

    def write(self, text: str) -> None:
        """Write if anybody still listens."""
        try:
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()
        except (OSError, ValueError):
            return

    def flush(self) -> None:
        """Nothing is kept back."""

    def fileno(self) -> int:
        """For the width of the terminal.

        Raises:
            OSError: there is none.
        """
        if sys.stderr is None:
            raise OSError("standard error is closed")
        return sys.stderr.fileno()

    def isatty(self) -> bool:
        """Whether somebody watches."""
        try:
            return sys.stderr is not None and sys.stderr.isatty()
        except ValueError:
            return False


class Recorder:
    """Keeps the means of the terms, and on the main rank writes, draws and saves at intervals.

    Args:
        config: `run` says when.
        run_dir: where the log goes.
        world: this process's rank and device.
        hooks: done at their intervals and at the end.
        check: raises if the training state must not be saved.
        save: writes the training state.
        progress: where the run stands.
        total_images: where it ends.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        world: World,
        hooks: Sequence[Hook],
        check: Callable[[Progress], None],
        save: Callable[[Progress], None],
        progress: Progress,
        total_images: int,
    ) -> None:
        self.settings, self.world, self.hooks = config.run, world, hooks
        self.check, self.save = check, save
        self.means = Means()
        self.panels: dict[str, str] = {}
        self.in_bar: dict[str, None] = {}  # a set in order
        self.stats = None
        if world.is_main:
            self.stats = StatsWriter(
                run_dir,
                resume_step=progress.step,
                trackers=open_trackers(config, run_dir, progress.step),
            )
        display = Display()
        self.watched = display.isatty()
        self.bar = tqdm(
            total=total_images,
            initial=progress.images,
            unit="img",
            desc="training",
            dynamic_ncols=True,
            disable=not world.is_main or not self.watched,
            mininterval=1.0,
            file=display,
        )
        self.progress = self.saved = self.flushed = progress
        self.total_images, self.clock = total_images, time.perf_counter()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.rescue()
        self.bar.close()
        if self.stats is not None:
            self.stats.close()

    def add(self, step: int, terms: Sequence[Term]) -> None:
        """Add the terms of one phase."""
        self.means.add(step, {term.name: term.value for term in terms})
        self.panels |= {term.name: term.panel for term in terms if term.name not in self.panels}
        self.in_bar |= {term.name: None for term in terms if term.in_bar}

    def step_done(self, progress: Progress, *, last: bool, hurry: bool = False) -> None:
        """Do what is due after a step; everything that is, if it is the last.

        In a hurry the checkpoint comes before pictures and validation: whoever asked the run to
        stop may not wait for them.

        Raises:
            NonFiniteError: before anything is saved.
        """
        self.progress = progress
        self.bar.update(progress.images - self.bar.n)
        saving = last or progress.step % self.settings.checkpoint_every == 0
        if self.world.device.type == "cpu":
            # Looking costs nothing here; on a GPU it would wait for the device.
            self.means.check()
        if saving or progress.step % self.settings.log_every == 0:
            self._log()
        if self.stats is None:
            return
        if saving:
            self.check(progress)
        if saving and hurry:
            self._save()
        for hook in self.hooks:
            if last or progress.step % hook.every == 0:
                report = hook.run(progress.step, progress.images)
                if report:
                    self.stats.write(progress.step, report)
        if saving and not hurry:
            self._save()

    def rescue(self) -> None:
        """Save what was trained since the last checkpoint, between two steps."""
        if self.progress.step > self.saved.step:
            self.step_done(self.progress, last=True, hurry=True)

    def _save(self) -> None:
        self.save(self.progress)
        self.saved = self.progress
        if not self.watched:
            logger.info(
                "step %d, %d of %d images: saved",
                self.progress.step,
                self.progress.images,
                self.total_images,
            )

    def _log(self) -> None:
        means = self.means.flush()
        if not means:
            return
        now = time.perf_counter()
        seconds = now - self.clock
        rate = (self.progress.images - self.flushed.images) / seconds
        steps = (self.progress.step - self.flushed.step) / seconds
        self.flushed, self.clock = self.progress, now
        if self.stats is not None:
            log = {"images": self.progress.images, "images_per_second": rate, **means}
            self.stats.write(self.progress.step, log)
            self.stats.describe(self.panels)
            shown = summary({name: means[name] for name in self.in_bar if name in means})
            self.bar.set_postfix_str(f"{steps:.2f} steps/s {memory(self.world)}{shown}")


def memory(world: World) -> str:
    """The most GPU memory that tensors have taken so far, for the progress bar."""
    if world.device.type != "cuda":
        return ""
    return f"{torch.cuda.max_memory_allocated(world.device) / 2**30:.1f} GiB "


def summary(values: Mapping[str, float]) -> str:
    """Values by the name of their phase, short enough for the bar: the last of each phase."""
    shown = {name.split("/")[0]: value for name, value in values.items()}
    return " ".join(f"{phase}={value:.2f}" for phase, value in shown.items())
