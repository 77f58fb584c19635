"""Train a model: `python -m baselines.train alrgan --preset demo --encoders DIR --run-dir DIR`.

Calling it again with the same run directory goes on from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from baselines import companions
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
from baselines.hosts import HOSTS, find_host, preset, readers
from baselines.settings import split_assignment

if TYPE_CHECKING:
    from baselines.data.loader import Batch
    from baselines.data.source import Source
    from baselines.data.vocabulary import Vocabulary
    from baselines.runs import Encoders
    from baselines.training.distributed import World
    from baselines.training.objective import GANObjective
    from baselines.training.recorder import Hook

logger = logging.getLogger(__name__)
EVALUATED = 500  # images of an evaluation in training


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = config_parser("train", __doc__)
    parser.add_argument("model", metavar="MODEL", help=", ".join(HOSTS))
    parser.add_argument("--preset", default="scenes", help="cub, coco, scenes, demo, ...")
    parser.add_argument("--refine", choices=["none", "alr", "alr,lvr"], help="ALR in any host")
    parser.add_argument("--encoders", type=Path, help="run directory of baselines.damsm")
    companions.add_options(parser)
    parser.add_argument("--run-dir", type=Path, required=True)
    add_resume_option(parser)
    return parser.parse_args(argv)


def configure(args: argparse.Namespace) -> Config:
    """The preset with `--refine` and the overrides applied.

    Raises:
        ConfigError: naming a setting that does not fit, or that cannot take effect.
    """
    config = preset(args.model, args.preset)
    if args.refine == "none":
        config = dataclasses.replace(config, refine=type(config.refine)())
    elif args.refine:
        refine = preset("alrgan", args.preset).refine
        source = find_host(args.model).layout_source or refine.source
        refine = dataclasses.replace(refine, terms=args.refine, source=source)
        config = dataclasses.replace(config, refine=refine)
    config = resolve(config, args, "train")
    require_effect(config, args)
    return config


def require_effect(config: Config, args: argparse.Namespace) -> None:
    """Refuse settings that contradict the command or one another.

    Raises:
        ConfigError: naming the setting and the remedy.
    """
    if config.model.name != args.model:
        raise ConfigError(
            f"model.name={config.model.name}: contradicts `train {args.model}`; write "
            f"`train {config.model.name}`"
        )
    if config.refine.terms and config.model.single_image:
        raise ConfigError(
            f"refine.terms={config.refine.terms}: refinement needs the image of every stage, and "
            "model.single_image=true paints only the last; use --refine none"
        )
    for key, text in map(split_assignment, args.set):
        if args.model not in readers(key):
            hosts = ", ".join(readers(key))
            raise ConfigError(f"{key}={text}: has no effect on {args.model}; {hosts} can use it")
        needed = "lvr" if key.startswith(("refine.lvr.", "refine.mask")) else "alr"
        added = key.startswith("refine.") and key != "refine.terms"
        if added and needed not in config.refine.names:
            remedy = {"alr": "--refine alr", "lvr": "--refine alr,lvr"}[needed]
            raise ConfigError(f"{key}={text}: has no effect without {remedy}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    config = configure(args)
    companion_dir = companions.given(config, args)
    if args.dry_run:
        config = with_encoders(config, args.encoders, args.run_dir)
        config = companions.adopted(config, companion_dir, args.run_dir)
        measured = partial(timed, config, args.encoders, args.run_dir, companion_dir)
        print_config(config, "train", measured if args.timed else None)
        return
    from baselines.start import held
    from baselines.training import distributed

    with distributed.started(config.run.device) as world, held(args.run_dir, world):
        run(
            config,
            args.run_dir,
            args.encoders,
            world,
            companion_dir=companion_dir,
            resume=args.resume,
        )


def timed(
    config: Config, encoders_dir: Path | None, run_dir: Path, companion_dir: Path | None
) -> str:
    """How long the training takes on this machine, from a few steps that are run.

    Raises:
        ConfigError: training would take far more memory than there is, or the host's companion is
            not given.
        CheckpointError: encoders or companion missing or damaged.
    """
    from baselines.runs import ENCODERS
    from baselines.training.distributed import World, pick_device
    from baselines.trial import expected_time, untrained_encoders

    world = World(device=pick_device(config.run.device))
    if encoders_dir is None and not (run_dir / ENCODERS).exists():
        encoders = untrained_encoders(config)
    else:
        encoders = required_encoders(encoders_dir, run_dir)
    config = settled(config, encoders, world)
    companion = companions.find(config, companion_dir, run_dir)
    objective = build_objective(config, encoders, world, companion)
    return expected_time(objective, config, world, vocabulary=len(encoders.vocabulary))


def with_encoders(config: Config, encoders: Path | None, run_dir: Path) -> Config:
    """`config` with the settings of the encoders that training would take, where there are any.

    Raises:
        CheckpointError: the encoders are missing or damaged.
    """
    if encoders is None and not run_dir.exists():
        return config
    from baselines.runs import ENCODERS, encoder_settings

    if encoders is None and not (run_dir / ENCODERS).exists():
        return config
    return dataclasses.replace(config, encoder=encoder_settings(encoders or run_dir))


def run(
    config: Config,
    run_dir: Path,
    encoders_dir: Path | None,
    world: World,
    *,
    companion_dir: Path | None = None,
    resume: str = "newest",
    hooks: Callable[[GANObjective], Iterable[Hook]] = lambda objective: (),
) -> None:
    """Train `config` in `run_dir`, from its newest checkpoint where there is one.

    `resume` is which one: "newest", or "previous" for the one before it.
    `companion_dir` is where the host's companion is, for a new run of a host that has one.
    `hooks` gives further things to do at intervals, on the main rank, of the objective they look
    at.

    Raises:
        ConfigError: settings that contradict one another, or a directory with a run of others.
        CheckpointError: encoders or checkpoint missing, damaged or of another vocabulary.
        DataError: broken data.
    """
    from baselines.loading import with_cache
    from baselines.start import start
    from baselines.training.loop import train

    encoders = required_encoders(encoders_dir, run_dir)
    companion = companions.find(config, companion_dir, run_dir)
    config = settled(companions.adopted(config, companion_dir, run_dir), encoders, world)
    source = checked_source(config, "train", encoders.vocabulary)
    words = encoders.vocabulary
    begun = start(config, run_dir, words, source, world, encoders=encoders, resume=resume)
    source = with_cache(config, source, "train")
    objective = build_objective(begun.config, encoders, world, companion)
    # Nothing is written before everything that can be refused has been.
    done: list[Hook] = []
    if world.is_main:
        prepare(run_dir, config, encoders, objective, fresh=begun.saved is None)
        companions.keep(config, companion, run_dir)
        done = [*build_hooks(config, run_dir, encoders, objective), *hooks(objective)]

    progress = train(
        objective,
        host_batches(begun.config, source, words, world),
        config,
        run_dir,
        world,
        total_images=config.optim.images,
        batch_size=begun.batch_size,
        accumulate=config.optim.accumulate,
        hooks=done,
        saved=begun.saved,
        extra=begun.extra,
    )
    if world.is_main:
        logger.info("%d steps, %d images: %s", progress.step, progress.images, run_dir)


def host_batches(
    config: Config, source: Source, vocabulary: Vocabulary, world: World
) -> Callable[[int], Iterable[Batch]]:
    """`training_batches` of the largest size, with the wrong images that the host may need."""
    return training_batches(
        config,
        source,
        vocabulary,
        world,
        size=config.model.image_sizes[-1],
        batch_size=config.optim.batch_size,
        wrong_images=find_host(config.model.name).wrong_images,
    )


def required_encoders(directory: Path | None, run_dir: Path) -> Encoders:
    """The encoders in the given directory or, where none is given, in the run.

    Raises:
        ConfigError: none is given for a new run.
        CheckpointError: missing or damaged.
    """
    from baselines.runs import ENCODERS, load_encoders

    if directory is None and not (run_dir / ENCODERS).exists():
        raise ConfigError(
            f"{run_dir} is a new run: give --encoders DIR, a run directory of "
            "python -m baselines.damsm on the same data"
        )
    return load_encoders(directory or run_dir)


def settled(config: Config, encoders: Encoders, world: World) -> Config:
    """`config` with what the encoders and the machine decide, as the run's files hold it.

    The encoders keep their own settings, and `optim.amp=auto` becomes what is computed in: it may
    mean something else on the machine where the run is gone on with.

    Raises:
        ConfigError: training would take far more memory than there is.
    """
    from baselines.training.hardware import resolved_amp, total_memory

    amp = resolved_amp(config.optim.amp, world.device)
    config = dataclasses.replace(
        config, encoder=encoders.config, optim=dataclasses.replace(config.optim, amp=amp)
    )
    require_memory(config, "train", total_memory(world.device), str(world.device))
    return config


def build_objective(
    config: Config, encoders: Encoders, world: World, companion: Path | None = None
) -> GANObjective:
    """Networks initialised from `run.seed`, the same on every rank.

    `companion` is the file of the further network that the host's losses read.
    """
    import torch

    from baselines.refinement import refinement_terms
    from baselines.training import distributed
    from baselines.training.norms import synchronise
    from baselines.training.recompute import recompute

    torch.manual_seed(config.run.seed)
    host = find_host(config.model.name)
    generator, discriminators = host.generator(config), host.discriminators(config)
    stages = host.stages(config, generator) if config.refine.terms else ()
    objective = host.objective(
        config,
        generator,
        discriminators,
        encoders.text,
        encoders.image,
        world,
        extra_terms=refinement_terms(config, stages, encoders.image, world),
        **companions.load(config, companion, encoders.vocabulary),
    )
    for network in objective.networks.values():
        distributed.broadcast(network, world)
    if config.optim.checkpoint_activations:
        recompute(getattr(objective.net, host.stages_of_generator))
        for network in objective.discriminators:
            recompute(getattr(network, host.layers_of_discriminator))
    if config.optim.sync_batch_norm:
        synchronise(objective.net, world)
        synchronise(objective.discriminators, world)
    return objective


def prepare(
    run_dir: Path,
    config: Config,
    encoders: Encoders,
    objective: GANObjective,
    *,
    fresh: bool,
) -> None:
    """Make the run directory complete before the first step."""
    from baselines.runs import CONFIG, ENCODERS, INITIAL, VOCABULARY, save_encoders
    from baselines.training.checkpoint import save_weights

    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir / CONFIG)
    if fresh:
        encoders.vocabulary.save(run_dir / VOCABULARY)
        save_encoders(encoders, run_dir / ENCODERS)
        save_weights(objective.average.network, run_dir / INITIAL, images=0)


def build_hooks(
    config: Config, run_dir: Path, encoders: Encoders, objective: GANObjective
) -> list[Hook]:
    """Draw a grid now and then; keep the averaged generator beside every checkpoint."""
    from baselines.data import open_source
    from baselines.runs import GENERATOR
    from baselines.training.checkpoint import save_weights
    from baselines.training.preview import Preview
    from baselines.training.recorder import Hook

    preview = Preview(
        config, run_dir, encoders.vocabulary, open_source(config.data, "test"), objective
    )

    def snapshot(step: int, images: int) -> dict[str, float]:
        save_weights(objective.average.network, run_dir / GENERATOR, images=images, step=step)
        return {}

    hooks = [Hook(config.run.grid_every, preview), Hook(config.run.checkpoint_every, snapshot)]
    if config.run.evaluate_every:
        evaluation = training_evaluation(config, run_dir, encoders, objective)
        hooks.append(Hook(config.run.evaluate_every, evaluation))
    return hooks


def training_evaluation(
    config: Config, run_dir: Path, encoders: Encoders, objective: GANObjective
) -> Callable[[int, int], Mapping[str, float]]:
    """Measure the averaged generator on a few hundred held-out captions; see `run.evaluate`."""
    from baselines.data import open_source
    from baselines.metrics.evaluation import Options
    from baselines.metrics.in_training import TrainingEvaluation
    from baselines.runs import Run

    return TrainingEvaluation(
        Run(run_dir, config, encoders, objective.average.network),
        Options(
            metrics=config.run.evaluate.split(","),
            images=min(EVALUATED, len(open_source(config.data, "test"))),
        ),
        best=config.run.best,
    )


if __name__ == "__main__":
    run_command(main)
