"""Pre-train MirrorGAN's captioner: `python -m baselines.stream --preset demo --run-dir DIR`.

STREAM learns to tell the caption of an image: a frozen trunk with ImageNet's weights, or where
there are none with those of DAMSM's image encoder (`--encoders`), a linear map and an LSTM. Every
epoch its loss is measured on the held-out images;
`captioner.pt` holds the best epoch, `last.pt` the last. Calling it again with the same run
directory goes on. The directory is what `train mirrorgan --captioner` names.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.cli import (
    add_resume_option,
    checked_source,
    config_parser,
    print_config,
    resolve,
    run_command,
    training_batches,
)
from baselines.config import Config, ConfigError, save_config
from baselines.estimate import require_memory
from baselines.hosts import preset

if TYPE_CHECKING:
    import torch

    from baselines.data.source import Source
    from baselines.data.vocabulary import Vocabulary
    from baselines.hosts.mirrorgan.captioner import Captioner
    from baselines.runs import Encoders
    from baselines.training.distributed import World

logger = logging.getLogger(__name__)
LAST = "last.pt"
SCORE = "cross_entropy"


def validate(
    captioner: Captioner,
    source: Source,
    vocabulary: Vocabulary,
    config: Config,
    device: torch.device,
) -> dict[str, float]:
    """How the captioner tells every caption of a whole split, without augmentation.

    Returns:
        "cross_entropy" per word, in nats, and "accuracy", the share of words that it holds for the
        likeliest where they stand.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from baselines.data.loader import evaluation_loader

    captioner.eval()
    total, hits, words = 0.0, 0, 0
    loader = evaluation_loader(
        source,
        vocabulary,
        size=config.model.image_sizes[-1],
        max_words=config.data.max_words,
        batch_size=config.stream.batch_size,
        workers=config.data.workers,
    )
    with torch.inference_mode():
        for batch in loader:
            # Captions of one image follow each other: it is seen once for all of them.
            place = {key: row for row, key in enumerate(dict.fromkeys(batch.keys))}
            first = [batch.keys.index(key) for key in place]
            seen = captioner.image(batch.images[first].to(device))
            features = seen[[place[key] for key in batch.keys]]
            captions = batch.captions.to(device)
            logits, targets = captioner.decoder(features, captions, batch.lengths_cpu)
            total += float(cross_entropy(logits.double(), targets, reduction="sum"))
            hits += int((logits.argmax(1) == targets).sum())
            words += len(targets)
    return {SCORE: total / words, "accuracy": hits / words}


class Validation:
    """Measures the captioner and keeps the best and the last."""

    def __init__(
        self,
        captioner: Captioner,
        vocabulary: Vocabulary,
        source: Source,
        config: Config,
        run_dir: Path,
        world: World,
    ) -> None:
        from baselines.training.checkpoint import load_torch

        self.captioner, self.vocabulary = captioner, vocabulary
        self.source, self.config, self.device = source, config, world.device
        self.last, self.file = run_dir / LAST, captioner_file(run_dir)
        known = load_torch(self.file).get("facts", {}) if self.file.exists() else {}
        self.best = float(known.get(SCORE, "inf"))

    def __call__(self, step: int, images: int) -> dict[str, float]:
        """Measure, save, and return the measures for the log."""
        from baselines.hosts.mirrorgan.captioner_file import save_captioner

        measured = validate(self.captioner, self.source, self.vocabulary, self.config, self.device)
        facts: dict[str, Any] = {"step": step, "images": images, **measured}

        def save(path: Path) -> None:
            save_captioner(self.captioner, self.vocabulary, self.config.stream, path, **facts)

        save(self.last)
        if measured[SCORE] < self.best:
            self.best = measured[SCORE]
            save(self.file)
        return {f"validation/{name}": value for name, value in measured.items()}


def captioner_file(run_dir: Path) -> Path:
    """Where a run of this command keeps the captioner that `train` takes."""
    from baselines.hosts.mirrorgan import CAPTIONER

    return run_dir / CAPTIONER.file


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = config_parser("stream", __doc__)
    parser.add_argument("--preset", default="scenes", help="cub, scenes, cub-small or demo")
    parser.add_argument(
        "--encoders",
        type=Path,
        help="run directory of baselines.damsm: take its words, and with stream.start=damsm its "
        "image encoder's trunk",
    )
    parser.add_argument("--run-dir", type=Path, required=True)
    add_resume_option(parser)
    parser.add_argument(
        "--image-weights", type=Path, help="ImageNet weights of the trunk as a local file"
    )
    return parser.parse_args(argv)


def configure(args: argparse.Namespace) -> Config:
    """The preset with the overrides applied.

    Raises:
        ConfigError: naming a setting that does not fit, or that cannot take effect.
    """
    config = resolve(preset("mirrorgan", args.preset), args, "stream")
    if not config.stream.images:
        raise ConfigError("stream.images=0: set how many images to train on")
    if args.image_weights and config.stream.start != "imagenet":
        raise ConfigError(f"--image-weights: has no effect with stream.start={config.stream.start}")
    return config


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    config = configure(args)
    if args.dry_run:
        print_config(config, "stream")
        return
    from baselines.start import held
    from baselines.training import distributed

    with distributed.started(config.run.device) as world, held(args.run_dir, world):
        run(config, args.run_dir, args.encoders, args.image_weights, world, resume=args.resume)


def run(
    config: Config,
    run_dir: Path,
    encoders_dir: Path | None,
    image_weights: Path | None,
    world: World,
    *,
    resume: str = "newest",
) -> None:
    """Train the captioner of `config` in `run_dir`, from its newest checkpoint if there is one."""
    from baselines.hosts.mirrorgan.objective import StreamObjective
    from baselines.runs import CONFIG, VOCABULARY, load_encoders
    from baselines.start import start
    from baselines.training import distributed
    from baselines.training.hardware import total_memory
    from baselines.training.loop import train
    from baselines.training.recorder import Hook

    require_memory(config, "stream", total_memory(world.device), str(world.device))
    source, held_out = checked_source(config, "train"), checked_source(config, "test")
    encoders = None if encoders_dir is None else load_encoders(encoders_dir)
    vocabulary = words_of(config, source, run_dir, encoders)
    begun = start(config, run_dir, vocabulary, source, world, command="stream", resume=resume)
    fetch = begun.saved is None
    captioner = fresh_captioner(config, vocabulary, image_weights, encoders, fetch=fetch)
    objective = StreamObjective(begun.config, captioner, world)
    distributed.broadcast(objective.captioner, world)
    if world.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / CONFIG)
        vocabulary.save(run_dir / VOCABULARY)
    epoch_steps = max(1, len(source) // (begun.batch_size * world.size))
    validation = Validation(captioner, vocabulary, held_out, config, run_dir, world)
    size = config.model.image_sizes[-1]
    progress = train(
        objective,
        training_batches(config, source, vocabulary, world, size=size, batch_size=begun.batch_size),
        config,
        run_dir,
        world,
        total_images=config.stream.images,
        batch_size=begun.batch_size,
        hooks=[Hook(epoch_steps, validation)],
        saved=begun.saved,
        extra=begun.extra,
    )
    if world.is_main:
        done = f"{progress.step} steps, {progress.images} images"
        logger.info("%s, best %s %.3f: %s", done, SCORE, validation.best, captioner_file(run_dir))


def fresh_captioner(
    config: Config,
    vocabulary: Vocabulary,
    image_weights: Path | None,
    encoders: Encoders | None,
    *,
    fetch: bool,
) -> Captioner:
    """A captioner initialised from `run.seed`; `fetch` starts its trunk as `stream.start` says.

    Raises:
        ConfigError: it is to start from encoders, and there are none or of another trunk.
    """
    import torch

    from baselines.hosts.mirrorgan.captioner import build_captioner

    stream = config.stream
    torch.manual_seed(config.run.seed)
    captioner = build_captioner(stream, len(vocabulary), fetch=fetch, weights_file=image_weights)
    if not fetch or stream.start != "damsm":
        return captioner
    if encoders is None:
        raise ConfigError(
            "stream.start=damsm: give --encoders DIR, a run directory of python -m baselines.damsm "
            "on the same data"
        )
    if encoders.config.trunk != stream.trunk:
        raise ConfigError(
            f"stream.trunk={stream.trunk}: --encoders see with {encoders.config.trunk}; set "
            f"stream.trunk={encoders.config.trunk} or another stream.start"
        )
    captioner.image.trunk.load_state_dict(encoders.image.trunk.state_dict())
    return captioner


def words_of(
    config: Config, source: Source, run_dir: Path, encoders: Encoders | None
) -> Vocabulary:
    """The words that the GAN's text encoder reads: the captioner must tell the same.

    Those of the encoders if they are given, of the run if it has begun, else counted as
    `baselines.damsm` counts them.
    """
    from baselines.data import build_vocabulary
    from baselines.data.vocabulary import Vocabulary
    from baselines.runs import VOCABULARY

    if encoders is not None:
        return encoders.vocabulary
    if (run_dir / VOCABULARY).exists():
        return Vocabulary.load(run_dir / VOCABULARY)
    return build_vocabulary(source, config.data.min_count)


if __name__ == "__main__":
    run_command(main)
