"""The further network that a host's losses may read: its option, its file, its copy in a run."""

from __future__ import annotations

import argparse
import filecmp
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.config import Config, ConfigError
from baselines.hosts import HOSTS, find_host
from baselines.hosts.host import Companion

if TYPE_CHECKING:
    from torch import nn

    from baselines.data.vocabulary import Vocabulary


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for the companion of every host that has one."""
    for name, host in HOSTS.items():
        if host.companion:
            parser.add_argument(
                f"--{host.companion.option}",
                type=Path,
                help=f"for {name}: run directory of {host.companion.command}",
            )


def given(config: Config, args: argparse.Namespace) -> Path | None:
    """What the option of the host's companion names.

    Raises:
        ConfigError: an option was given that this run does not read.
    """
    companion = of(config)
    for host in HOSTS.values():
        other = host.companion
        if other and other is not companion and vars(args)[other.option]:
            raise ConfigError(
                f"--{other.option}: has no effect, the losses of this run read no {other.option}"
            )
    return vars(args)[companion.option] if companion else None


def of(config: Config) -> Companion | None:
    """The companion that the losses of `config` read."""
    companion = find_host(config.model.name).companion
    return companion if companion and companion.needed(config) else None


def find(config: Config, directory: Path | None, run_dir: Path) -> Path | None:
    """The file of the companion: in the run where it has begun, else in the given directory.

    Raises:
        ConfigError: none is given for a new run, or the run has begun with another.
    """
    companion = of(config)
    if companion is None:
        return None
    own = run_dir / companion.file
    if directory is None and not own.exists():
        raise ConfigError(
            f"{run_dir} is a new run: give --{companion.option} DIR, a run directory of "
            f"python -m {companion.command} on the same data"
        )
    if directory is None:
        return own
    file = directory / companion.file if directory.is_dir() else directory
    if own.exists() and file.exists() and not filecmp.cmp(own, file, shallow=False):
        raise ConfigError(
            f"{run_dir} holds a run with another {companion.option} than {directory}; choose "
            f"another --run-dir, or leave --{companion.option} out"
        )
    return own if own.exists() else file


def adopted(config: Config, directory: Path | None, run_dir: Path) -> Config:
    """`config` with the settings of the companion that training would take, if there is one yet.

    Raises:
        CheckpointError: its file is missing or damaged.
    """
    companion = of(config)
    if companion is None or (directory is None and not (run_dir / companion.file).exists()):
        return config
    file = find(config, directory, run_dir)
    assert file is not None
    return companion.settings(config, file)


def load(config: Config, file: Path | None, vocabulary: Vocabulary) -> dict[str, nn.Module]:
    """The companion in `file`, as the keyword of the objective; nothing where none is read.

    Raises:
        CheckpointError: the file is missing or damaged.
        VocabularyMismatchError: it speaks other words.
    """
    companion = of(config)
    if companion is None or file is None:
        return {}
    return {companion.option: companion.load(file, vocabulary)}


def keep(config: Config, file: Path | None, run_dir: Path) -> None:
    """Copy the companion into the run."""
    from baselines.files import write_atomic

    companion = of(config)
    if companion is None or file is None or file == run_dir / companion.file:
        return
    with open(file, "rb") as source:
        write_atomic(run_dir / companion.file, lambda copy: shutil.copyfileobj(source, copy))
