"""Train a model: `python -m baselines.train alrgan --preset demo --encoders DIR --run-dir DIR`.

Calling it again with the same run directory goes on from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from baselines.cli import (
    add_config_options,
    add_resume_option,
    checked_source,
    print_config,
    resolve,
    run_command,
    training_batches,
)
from baselines.config import Config, ConfigError, save_config
from baselines.data import open_source
from baselines.hosts.models import PRESETS, build_discriminators, build_generator, preset
from baselines.refinement.objective import RefinedObjective
from baselines.runs import (
    CONFIG,
    ENCODERS,
    GENERATOR,
    INITIAL,
    NEWEST,
    VOCABULARY,
    Encoders,
    held,
    load_encoders,
    newest_state,
    origin,
    require_same_start,
    save_encoders,
)
from baselines.training import distributed
from baselines.training.checkpoint import save_weights
from baselines.training.distributed import World
from baselines.training.loop import train
from baselines.training.objective import StackedGANObjective
from baselines.training.preview import Preview
from baselines.training.recorder import Hook

logger = logging.getLogger(__name__)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m baselines.train", description=__doc__)
    parser.add_argument("model", choices=sorted(PRESETS))
    parser.add_argument("--preset", default="scenes", help="cub, coco, scenes or demo")
    parser.add_argument("--refine", choices=["none", "alr", "alr,lvr"], help="ALR in any host")
    parser.add_argument("--encoders", type=Path, help="run directory of baselines.damsm")
    parser.add_argument("--run-dir", type=Path, required=True)
    add_resume_option(parser)
    add_config_options(parser)
    return parser.parse_args(argv)


def configure(args: argparse.Namespace) -> Config:
    """The preset with `--refine` and the overrides applied."""
    config = preset(args.model, args.preset)
    if args.refine == "none":
        config = dataclasses.replace(config, refine=type(config.refine)())
    elif args.refine:
        refine = preset("alrgan", args.preset).refine
        config = dataclasses.replace(config, refine=dataclasses.replace(refine, terms=args.refine))
    return resolve(config, args)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    config = configure(args)
    if args.dry_run:
        print_config(config)
        return
    with distributed.started(config.run.device) as world, held(args.run_dir, world):
        run(config, args.run_dir, args.encoders, world, args.resume)


def run(
    config: Config, run_dir: Path, encoders_dir: Path | None, world: World, resume: str = NEWEST
) -> None:
    """Train `config` in `run_dir`, from its newest checkpoint where there is one.

    Raises:
        ConfigError: settings that contradict one another, or a directory with a run of others.
        CheckpointError: encoders or checkpoint missing, damaged or of another vocabulary.
        DataError: broken data.
    """
    if encoders_dir is None and not (run_dir / ENCODERS).exists():
        raise ConfigError(
            f"{run_dir} is a new run: give --encoders DIR, a run directory of "
            "python -m baselines.damsm on the same data"
        )
    if config.refine.terms and config.model.single_image:
        raise ConfigError(
            f"refine.terms={config.refine.terms}: refinement needs the image of every stage, and "
            "model.single_image=true paints only the last; use --refine none"
        )
    encoders = load_encoders(encoders_dir or run_dir)
    config = dataclasses.replace(config, encoder=encoders.config)
    saved = newest_state(config, run_dir, encoders.vocabulary, resume=resume)
    source = checked_source(config, "train", encoders.vocabulary)
    trained_on = origin(source, encoders)
    require_same_start(config, run_dir, saved, trained_on, world)
    batch_size = distributed.share_of_batch(
        saved, config.optim.batch_size, config.optim.accumulate, world
    )
    objective = build_objective(config, encoders, world)
    # Nothing is written before everything that can be refused has been.
    hooks = []
    if world.is_main:
        prepare(run_dir, config, encoders, objective, fresh=saved is None)
        hooks = build_hooks(config, run_dir, encoders, objective)

    batches = training_batches(
        config,
        source,
        encoders.vocabulary,
        world,
        size=config.model.image_sizes[-1],
        batch_size=batch_size,
    )
    progress = train(
        objective,
        batches,
        config,
        run_dir,
        world,
        total_images=config.optim.images,
        batch_size=batch_size,
        accumulate=config.optim.accumulate,
        hooks=hooks,
        saved=saved,
        extra={"vocabulary": encoders.vocabulary.to_dict(), "origin": trained_on},
    )
    if world.is_main:
        logger.info("%d steps, %d images: %s", progress.step, progress.images, run_dir)


def build_objective(config: Config, encoders: Encoders, world: World) -> StackedGANObjective:
    """Networks initialised from `run.seed`, the same on every rank."""
    torch.manual_seed(config.run.seed)
    kind = RefinedObjective if config.refine.terms else StackedGANObjective
    objective = kind(
        config,
        build_generator(config),
        build_discriminators(config),
        encoders.text,
        encoders.image,
        world,
    )
    for network in objective.networks.values():
        distributed.broadcast(network, world)
    return objective


def prepare(
    run_dir: Path,
    config: Config,
    encoders: Encoders,
    objective: StackedGANObjective,
    *,
    fresh: bool,
) -> None:
    """Make the run directory complete before the first step."""
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir / CONFIG)
    if fresh:
        encoders.vocabulary.save(run_dir / VOCABULARY)
        save_encoders(encoders, run_dir / ENCODERS)
        save_weights(objective.average.network, run_dir / INITIAL, images=0)


def build_hooks(
    config: Config, run_dir: Path, encoders: Encoders, objective: StackedGANObjective
) -> list[Hook]:
    """Draw a grid now and then; keep the averaged generator beside every checkpoint."""
    preview = Preview(
        config, run_dir, encoders.vocabulary, open_source(config.data, "test"), objective
    )

    def snapshot(step: int, images: int) -> dict[str, float]:
        save_weights(objective.average.network, run_dir / GENERATOR, images=images, step=step)
        return {}

    return [Hook(config.run.grid_every, preview), Hook(config.run.checkpoint_every, snapshot)]


if __name__ == "__main__":
    run_command(main)
