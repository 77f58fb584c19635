"""Pre-train MirrorGAN's captioner: `python -m baselines.stream --preset demo --run-dir DIR`.

STREAM learns to tell the caption of an image: a frozen trunk with ImageNet's weights, or where
there are none with those of DAMSM's image encoder (`--encoders`), a linear map and an LSTM. Every
epoch its loss is measured on the held-out images;
`captioner.pt` holds the best epoch, `last.pt` the last. Calling it again with the same run
directory goes on. The directory is what `train mirrorgan --captioner` names.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cli import (
    add_resume_option,
    checked_source,
    config_parser,
    print_config,
    resolve,
    run_command,
)
from baselines.config import Config, ConfigError
from baselines.estimate import require_memory
from baselines.hosts import preset
from baselines.pretraining import Validation, pretrain

if TYPE_CHECKING:
    import torch

    from baselines.data.source import Source
    from baselines.data.vocabulary import Vocabulary
    from baselines.hosts.mirrorgan.captioner import Captioner
    from baselines.runs import Encoders
    from baselines.training.distributed import World

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


def validation(
    captioner: Captioner,
    vocabulary: Vocabulary,
    source: Source,
    config: Config,
    run_dir: Path,
    device: torch.device,
) -> Validation:
    """Keep the captioner of the least cross-entropy."""
    from baselines.hosts.mirrorgan.captioner_file import save_captioner

    return Validation(
        partial(validate, captioner, source, vocabulary, config, device),
        partial(save_captioner, captioner, vocabulary, config.stream),
        score=SCORE,
        best=captioner_file(run_dir),
        lower_is_better=True,
    )


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
        print_config(config, "stream", partial(timed, config) if args.timed else None)
        return
    from baselines.start import held
    from baselines.training import distributed

    with distributed.started(config.run.device) as world, held(args.run_dir, world):
        run(config, args.run_dir, args.encoders, args.image_weights, world, resume=args.resume)


def timed(config: Config) -> str:
    """How long the training takes on this machine, from a few steps that are run.

    Raises:
        ConfigError: training would take far more memory than there is.
    """
    from baselines.hosts.mirrorgan.captioner import build_captioner
    from baselines.hosts.mirrorgan.objective import StreamObjective
    from baselines.training.distributed import World, pick_device
    from baselines.training.hardware import total_memory
    from baselines.trial import expected_time, words_of_scenes

    world = World(device=pick_device(config.run.device))
    require_memory(config, "stream", total_memory(world.device), str(world.device))
    words = len(words_of_scenes())
    captioner = build_captioner(config.stream, words, fetch=False)
    objective = StreamObjective(config, captioner, world)
    return expected_time(objective, config, world, vocabulary=words, command="stream")


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
    from baselines.loading import with_cache
    from baselines.runs import load_encoders
    from baselines.start import start
    from baselines.training import distributed
    from baselines.training.hardware import total_memory

    require_memory(config, "stream", total_memory(world.device), str(world.device))
    source, held_out = checked_source(config, "train"), checked_source(config, "test")
    encoders = None if encoders_dir is None else load_encoders(encoders_dir)
    vocabulary = words_of(config, source, run_dir, encoders)
    begun = start(config, run_dir, vocabulary, source, world, command="stream", resume=resume)
    source, held_out = (with_cache(config, one, "stream") for one in (source, held_out))
    fetch = begun.saved is None
    captioner = fresh_captioner(config, vocabulary, image_weights, encoders, fetch=fetch)
    objective = StreamObjective(begun.config, captioner, world)
    distributed.broadcast(objective.captioner, world)
    pretrain(
        objective,
        validation(captioner, vocabulary, held_out, config, run_dir, world.device),
        begun,
        config,
        run_dir,
        source,
        vocabulary,
        world,
        size=config.model.image_sizes[-1],
        total_images=config.stream.images,
    )


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
