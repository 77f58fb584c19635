"""Pre-train DAMSM's encoders: `python -m baselines.damsm --preset demo --run-dir DIR`.

The text and the image encoder learn to match captions with images, as AttnGAN's DAMSM.
Every epoch the validation split's retrieval recall is measured; `encoders.pt` holds the best epoch,
`last.pt` the last. Calling it again with the same run directory goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
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
    from baselines.runs import Encoders
    from baselines.training.distributed import World

SCORE = "text_to_image/R@5"


def validate(
    encoders: Encoders, source: Source, config: Config, device: torch.device
) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions over a whole split, without augmentation."""
    import torch

    from baselines.data.loader import evaluation_loader
    from baselines.metrics.retrieval import retrieval

    encoders.text.eval()
    encoders.image.eval()
    codes, sentences = [], []
    image_of: list[int] = []
    index_of: dict[str, int] = {}
    loader = evaluation_loader(
        source,
        encoders.vocabulary,
        size=config.encoder.input_size,
        max_words=config.data.max_words,
        batch_size=config.encoder.batch_size,
        workers=config.data.workers,
    )
    with torch.inference_mode():
        for batch in loader:
            # Captions of one image follow each other: it is encoded with the first of them.
            new = [row for row, key in enumerate(batch.keys) if key not in index_of]
            new = [row for row in new if batch.keys.index(batch.keys[row]) == row]
            for row in new:
                index_of[batch.keys[row]] = len(index_of)
            if new:
                codes.append(encoders.image(batch.images[new].to(device)).code)
            text = encoders.text(batch.captions.to(device), batch.lengths_cpu)
            sentences.append(text.sentence)
            image_of.extend(index_of[key] for key in batch.keys)
    return retrieval(torch.cat(codes), torch.cat(sentences), image_of)


def validation(
    encoders: Encoders, source: Source, config: Config, run_dir: Path, device: torch.device
) -> Validation:
    """Keep the encoders of the best recall."""
    from baselines.runs import ENCODERS, save_encoders

    return Validation(
        partial(validate, encoders, source, config, device),
        partial(save_encoders, encoders),
        score=SCORE,
        best=run_dir / ENCODERS,
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = config_parser("damsm", __doc__)
    parser.add_argument("--preset", default="scenes", help="cub, coco, scenes, demo, ...")
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
    config = resolve(preset("attngan", args.preset), args, "damsm")
    if not config.encoder.images:
        raise ConfigError("encoder.images=0: set how many images to train on")
    return config


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    config = configure(args)
    if args.dry_run:
        print_config(config, "damsm", partial(timed, config) if args.timed else None)
        return
    from baselines.start import held
    from baselines.training import distributed

    with distributed.started(config.run.device) as world, held(args.run_dir, world):
        run(config, args.run_dir, args.image_weights, world, resume=args.resume)


def timed(config: Config) -> str:
    """How long the training takes on this machine, from a few steps that are run.

    Raises:
        ConfigError: training would take far more memory than there is.
    """
    from baselines.training.damsm import DAMSMObjective
    from baselines.training.distributed import World, pick_device
    from baselines.training.hardware import total_memory
    from baselines.trial import expected_time, untrained_encoders

    world = World(device=pick_device(config.run.device))
    require_memory(config, "damsm", total_memory(world.device), str(world.device))
    encoders = untrained_encoders(config)
    images = config.encoder.images  # how many an epoch has does not change what a step costs
    objective = DAMSMObjective(config, encoders.text, encoders.image, images, world)
    words = len(encoders.vocabulary)
    return expected_time(objective, config, world, vocabulary=words, command="damsm")


def run(
    config: Config,
    run_dir: Path,
    image_weights: Path | None,
    world: World,
    *,
    resume: str = "newest",
) -> None:
    """Train the encoders of `config` in `run_dir`, from its newest checkpoint if there is one."""
    from baselines.data import build_vocabulary
    from baselines.loading import with_cache
    from baselines.start import start
    from baselines.training import distributed
    from baselines.training.damsm import DAMSMObjective
    from baselines.training.hardware import resolved_amp, total_memory

    # As in training: `auto` may mean something else where the run is gone on with.
    amp = resolved_amp(config.encoder.amp, world.device)
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, amp=amp))
    require_memory(config, "damsm", total_memory(world.device), str(world.device))
    source, held_out = checked_source(config, "train"), checked_source(config, "test")
    vocabulary = build_vocabulary(source, config.data.min_count)
    begun = start(config, run_dir, vocabulary, source, world, command="damsm", resume=resume)
    source, held_out = (with_cache(config, one, "damsm") for one in (source, held_out))
    encoders = fresh_encoders(config, vocabulary, image_weights, fetch=begun.saved is None)
    objective = DAMSMObjective(begun.config, encoders.text, encoders.image, len(source), world)
    for network in objective.networks.values():
        distributed.broadcast(network, world)
    pretrain(
        objective,
        validation(encoders, held_out, config, run_dir, world.device),
        begun,
        config,
        run_dir,
        source,
        vocabulary,
        world,
        size=config.encoder.input_size,
        total_images=config.encoder.images,
    )


def fresh_encoders(
    config: Config, vocabulary: Vocabulary, image_weights: Path | None, *, fetch: bool
) -> Encoders:
    """Encoders initialised from `run.seed`; `fetch` starts the trunk from ImageNet's weights."""
    import torch

    from baselines.networks.encoders import build_image_encoder, build_text_encoder
    from baselines.runs import Encoders

    torch.manual_seed(config.run.seed)
    return Encoders(
        build_text_encoder(config.encoder, len(vocabulary)),
        build_image_encoder(config.encoder, fetch=fetch, weights_file=image_weights),
        vocabulary,
        dataclasses.replace(config.encoder, pretrained=False),
    )


if __name__ == "__main__":
    run_command(main)
