"""What `baselines.damsm` and `baselines.stream` share: they train encoders, not a GAN.

Every epoch something is measured on the held-out images, and the best and the last networks are
kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cli import training_batches
from baselines.config import Config, save_config

if TYPE_CHECKING:
    from baselines.data.source import Source
    from baselines.data.vocabulary import Vocabulary
    from baselines.start import Start
    from baselines.training.distributed import World
    from baselines.training.loop import Objective

logger = logging.getLogger(__name__)
LAST = "last.pt"


class Validation:
    """Measures the held-out images and keeps the best and the last networks.

    Args:
        measure: gives the measures by name.
        save: writes the networks to a path, with facts about them.
        score: the name of the measure by which one is better than another.
        best: the file of the best networks; the last ones lie beside it, in `last.pt`.
        lower_is_better: whether small scores are good.
    """

    def __init__(
        self,
        measure: Callable[[], dict[str, float]],
        save: Callable[..., None],
        *,
        score: str,
        best: Path,
        lower_is_better: bool = False,
    ) -> None:
        from baselines.training.checkpoint import load_torch

        self.measure, self.save, self.score, self.file = measure, save, score, best
        self.lower_is_better = lower_is_better
        known = load_torch(best).get("facts", {}) if best.exists() else {}
        self.best = float(known.get(score, "inf" if lower_is_better else "-inf"))

    def __call__(self, step: int, images: int) -> dict[str, float]:
        """Measure, save, say the score, and return the measures for the log."""
        measured = self.measure()
        facts = {"step": step, "images": images, **measured}
        self.save(self.file.with_name(LAST), **facts)
        score = measured[self.score]
        logger.info("step %d, %d images: %s %.3f", step, images, self.score, score)
        if score < self.best if self.lower_is_better else score > self.best:
            self.best = score
            self.save(self.file, **facts)
        return {f"validation/{name}": value for name, value in measured.items()}


def pretrain(
    objective: Objective,
    validation: Validation,
    begun: Start,
    config: Config,
    run_dir: Path,
    source: Source,
    vocabulary: Vocabulary,
    world: World,
    *,
    size: int,
    total_images: int,
) -> None:
    """Train on `total_images` images of `size` pixels from where `begun` says, and validate."""
    from baselines.runs import CONFIG, VOCABULARY
    from baselines.training.loop import train
    from baselines.training.recorder import Hook

    if world.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / CONFIG)
        vocabulary.save(run_dir / VOCABULARY)
    epoch_steps = max(1, len(source) // (begun.batch_size * world.size))
    progress = train(
        objective,
        training_batches(config, source, vocabulary, world, size=size, batch_size=begun.batch_size),
        config,
        run_dir,
        world,
        total_images=total_images,
        batch_size=begun.batch_size,
        hooks=[Hook(epoch_steps, validation)],
        saved=begun.saved,
        extra=begun.extra,
    )
    if world.is_main:
        done = f"{progress.step} steps, {progress.images} images"
        best = f"{validation.score} {validation.best:.3f}"
        logger.info("%s, best %s: %s", done, best, validation.file)
