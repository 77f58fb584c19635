"""What the commands share: options, one-line errors, the data of a configuration."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from baselines.config import SEED, Config, override, to_dict
from baselines.console import (
    INTERRUPTED,
    STATUS_INTERRUPTED,
    guard_streams,
    leave_quietly,
    say,
    terminate_in_one_line,
)
from baselines.data import SOURCES, find_source
from baselines.errors import UserError
from baselines.estimate import summary
from baselines.settings import ConfigError, Rule, describe, named_setting, split_assignment

# What needs torch is imported where it is used: --help, --dry-run and a mistyped option do not
# wait for it.
if TYPE_CHECKING:
    from baselines.data.loader import Batch
    from baselines.data.source import Source
    from baselines.data.vocabulary import Vocabulary
    from baselines.training.distributed import World

N = TypeVar("N", int, float)
REMEDIES = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another folder",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENOTDIR: "a file stands where a folder should be: move it away, or choose another folder",
    errno.EEXIST: "a file stands where a folder should be: move it away, or choose another folder",
    errno.EISDIR: "a folder stands where a file should be: move it away, or choose another folder",
    errno.ENOENT: "check the spelling",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or use fewer data.workers",
    errno.ENOMEM: "use smaller batches or fewer data.workers",
}
ISSUES = "https://github.com/alr-layers/alr-layers/issues"


def _path(text: str) -> Path:
    """A path; of an empty one (`--run-dir "$UNSET"`) `Path` would make the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, expected a path; . is the current folder")
    return Path(text)


def number(kind: Callable[[str], N], rule: Rule) -> Callable[[str], N]:
    """A type of option: a number of `kind`, int or float, that `rule` holds of."""

    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            whole = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is no {whole}") from None
        if not rule.holds(value):
            raise argparse.ArgumentTypeError(f"{text.strip()}: expected {rule.expected()}")
        return value

    return parse


seed_number = number(int, SEED)  # of a `--seed`, in the range of `run.seed`


class Parser(argparse.ArgumentParser):
    """Options whose mistakes are one line, as every other error; the usage is for `--help`.

    Arguments as `argparse.ArgumentParser`. An option of type `Path` must not be empty.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        """Print the message and end with status 2."""
        self.exit(2, f"error: {message} (--help lists the options)\n")


def config_parser(command: str, description: str | None) -> Parser:
    """A parser for `command` with `--set`, `--data-root`, `--split-file` and the like.

    Its `--help` lists every setting that the command reads.
    """
    parser = Parser(
        prog=f"python -m baselines.{command}",
        description=description,
        epilog="settings of --set (presets have defaults of their own, see --dry-run):\n"
        + describe(Config, command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.KEY=VALUE",
        help="override one setting of the preset (repeatable); all are listed below",
    )
    parser.add_argument(
        "--data-root",
        help=f"folder of the data set (data.name: {', '.join(SOURCES)}): sets data.root",
    )
    parser.add_argument(
        "--split-file", help="names of the test images of a folder: sets data.split_file"
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave broken images and captions out instead of refusing to start",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration, and what it takes on standard error, and stop",
    )
    parser.add_argument(
        "--timed",
        action="store_true",
        help="with --dry-run: also run a few steps on random images, and say how long the "
        "training takes here, and how many images a second are loaded",
    )
    return parser


def add_resume_option(parser: argparse.ArgumentParser) -> None:
    """`--resume`: which checkpoint of the run directory to go on from."""
    parser.add_argument(
        "--resume",
        choices=["newest", "previous"],
        default="newest",
        help="the checkpoint to go on from, where there is one: previous is the one before the "
        "newest, for when that is damaged",
    )


def resolve(config: Config, args: argparse.Namespace, command: str) -> Config:
    """The preset `config` with the options of `config_parser` applied.

    Raises:
        ConfigError: a setting that does not exist, does not fit, or that `command` does not read;
            an option that has no effect.
    """
    if args.timed and not args.dry_run:
        raise ConfigError("--timed: has no effect without --dry-run")
    for key, text in map(split_assignment, args.set):
        reader = named_setting(Config, key).only
        if reader not in ("", command):
            raise ConfigError(
                f"{key}={text}: has no effect in {command}; only python -m baselines.{reader} "
                "reads it"
            )
    given = {
        "root": args.data_root,
        "split_file": args.split_file,
        "skip_broken": args.skip_broken or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **given))
    config = override(config, args.set)
    find_source(config.data.name)
    return config


def print_config(config: Config, command: str, timed: Callable[[], str] | None = None) -> None:
    """For `--dry-run`: the resolved configuration as JSON; on standard error what it takes.

    `timed`: under `--timed`, says how long the training takes here.
    """
    print(json.dumps(to_dict(config), indent=2))
    print(summary(config, command), file=sys.stderr)
    if config.data.cache:
        from baselines.loading import cache_summary

        print(cache_summary(config, command), file=sys.stderr)
    if timed is not None:
        from baselines.loading import loading_rate

        print(timed(), file=sys.stderr)
        print(loading_rate(config, command), file=sys.stderr)


def checked_source(config: Config, split: str, vocabulary: Vocabulary | None = None) -> Source:
    """Open a split and scan it, also for words outside `vocabulary` if one is given.

    Raises:
        DataError: listing everything that is broken, unless `data.skip_broken`.
        VocabularyMismatchError: `data.max_unknown` is exceeded.
    """
    from baselines.data import open_source
    from baselines.data.scan import scan

    source = open_source(config.data, split)
    report = scan(source, vocabulary)
    report.require_known_words(config.data.max_unknown)
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
    wrong_images: bool = False,
) -> Callable[[int], Iterable[Batch]]:
    """Given the number of images already seen, this rank's batches from there on."""
    from baselines.data.loader import training_loader

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
            wrong_images=wrong_images,
            skip_broken=config.data.skip_broken,
            device=world.device,
        )

    return batches


def run_command(main: Callable[[Sequence[str] | None], object]) -> None:
    """Run a command's `main`: what the user can mend becomes one line and exit status 2.

    That is `UserError`, and an `OSError` that names a file (disk full, not writable, missing).
    Anything else is a bug of ours: its traceback stays, followed by where to report it.
    """
    guard_streams()
    terminate_in_one_line()
    # Threads that wait for work soon give their core away instead of spinning on it, as OpenMP's do
    # by default: beside one other busy process, spinning makes training tens of times slower. But
    # not at once: the next piece of a small net's work is there sooner than a thread wakes up. Read
    # when torch is loaded, which no command does before this.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Which backend each op takes is what `python -m alr_layers` tells; here it would break the bar.
    logging.getLogger("alr_layers").setLevel(logging.WARNING)
    try:
        main(None)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        say(INTERRUPTED)
        sys.exit(STATUS_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        leave_quietly()
        sys.exit(STATUS_INTERRUPTED)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        fail(one_line(error))
    except Exception:
        traceback.print_exc()
        print(
            f"This is a bug of alr-layers: please report it at {ISSUES} with the lines above and "
            "what `python -m alr_layers` prints.",
            file=sys.stderr,
        )
        sys.exit(1)


def fail(message: str) -> NoReturn:
    """Print one message and end with status 2."""
    say(f"error: {message}")
    sys.exit(2)


def one_line(error: Exception) -> str:
    """What went wrong, without line breaks or error numbers."""
    if isinstance(error, OSError) and error.strerror is not None:
        where = "" if error.filename is None else f"{error.filename}: "
        remedy = REMEDIES.get(error.errno or 0, "")
        return f"{where}{error.strerror}" + (f"; {remedy}" if remedy else "")
    return " ".join(str(error).split())
