"""What the commands share: options, one-line errors, the data of a configuration."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence

from baselines.config import Config, ConfigError, override, to_dict
from baselines.data import open_source
from baselines.data.loader import Batch, training_loader
from baselines.data.scan import scan
from baselines.data.source import DataError, Source
from baselines.data.vocabulary import Vocabulary
from baselines.training.checkpoint import CheckpointError
from baselines.training.distributed import World
from baselines.training.stats import NonFiniteError

# Errors of the user's input or surroundings: one line is all they need.
EXPECTED = (ConfigError, CheckpointError, DataError, NonFiniteError, FileNotFoundError, ValueError)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """`--set`, `--data-root`, `--split-file`, `--skip-broken`, `--dry-run`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.KEY=VALUE",
        help="override one setting of the preset (repeatable); --dry-run lists them all",
    )
    parser.add_argument("--data-root", help="folder of cub, coco or folder: sets data.root")
    parser.add_argument(
        "--split-file", help="names of the test images of a folder: sets data.split_file"
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave broken images and captions out instead of refusing to start",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the configuration and stop")


def resolve(config: Config, args: argparse.Namespace) -> Config:
    """The preset `config` with the options of `add_config_options` applied."""
    given = {
        "root": args.data_root,
        "split_file": args.split_file,
        "skip_broken": args.skip_broken or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **given))
    return override(config, args.set)


def print_config(config: Config) -> None:
    """The resolved configuration as JSON on standard output."""
    print(json.dumps(to_dict(config), indent=2))


def checked_source(config: Config, split: str, vocabulary: Vocabulary | None = None) -> Source:
    """Open a split and scan it, also for words outside `vocabulary` if one is given.

    Raises:
        DataError: listing everything that is broken, unless `data.skip_broken`.
    """
    source = open_source(config.data, split)
    report = scan(source, vocabulary)
    if config.data.skip_broken:
        return report.skip()
    report.raise_if_broken()
    return source


def training_batches(
    config: Config,
    source: Source,
    vocabulary: Vocabulary,
    world: World,
    *,
    size: int,
    batch_size: int,
) -> Callable[[int], Iterable[Batch]]:
    """Given the number of images already seen, this rank's batches from there on."""

    def batches(images_done: int) -> Iterable[Batch]:
        return training_loader(
            source,
            vocabulary,
            size=size,
            max_words=config.data.max_words,
            batch_size=batch_size,
            seed=config.run.seed,
            start_batch=images_done // (batch_size * world.size),
            rank=world.rank,
            world=world.size,
            workers=config.data.workers,
        )

    return batches


def run_command(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run a command's `main`; an expected error becomes one message and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Which backend each op takes is what `python -m alr_layers` tells; here it would break the bar.
    logging.getLogger("alr_layers").setLevel(logging.WARNING)
    try:
        main(None)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
