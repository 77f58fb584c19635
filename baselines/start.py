"""What a training begins with: its run directory to itself, its checkpoint, and the same elsewhere.

A run goes on only under the settings, words, data and encoders that it began with, and a job only
where all ranks have the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baselines.config import Config, ConfigError, flat, from_dict, settings
from baselines.data.source import Source
from baselines.data.vocabulary import Vocabulary
from baselines.runs import Encoders, require_sections
from baselines.training.checkpoint import (
    CheckpointError,
    checkpoints,
    load_torch,
    require_intact,
)
from baselines.training.distributed import World, share_of_batch
from baselines.training.lock import locked

STATE_SECTIONS = ("networks", "optimizers", "scaler", "progress", "rng", "config", "vocabulary")
# The group of settings with the batch size of each command that trains.
BATCHES = {"train": "optim", "damsm": "encoder", "stream": "stream"}
NEWEST, PREVIOUS = "newest", "previous"  # choices of --resume


@contextmanager
def held(run_dir: Path, world: World) -> Iterator[None]:
    """Keep other trainings out of a run directory while this one, of all ranks, works in it.

    Raises:
        RunInUseError: naming the training that is there.
    """
    with locked(run_dir) if world.is_main else nullcontext():
        yield


def newest_state(
    config: Config,
    run_dir: Path,
    vocabulary: Vocabulary,
    command: str = "train",
    *,
    resume: str = NEWEST,
) -> dict[str, Any] | None:
    """The checkpoint that the run goes on from, refused if it is of other settings or words.

    Args:
        config: the settings asked for.
        run_dir: the run.
        vocabulary: the words asked for.
        command: the one that goes on; settings that it does not read are not compared.
        resume: `NEWEST`, or `PREVIOUS` for the one before it.

    Raises:
        CheckpointError: it is damaged; names the newest one that is not.
        ConfigError: it is of other settings.
    """
    found = checkpoints(run_dir)
    if resume == PREVIOUS:
        found = found[:-1]
        if not found:
            raise CheckpointError(f"{run_dir}: there is no previous checkpoint; leave --resume out")
    if not found:
        return None
    try:
        saved = load_torch(found[-1])
        require_sections(saved, STATE_SECTIONS, found[-1], "a complete training state")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_remedy(found[:-1], resume)}") from error
    require_same_config(from_dict(Config, saved["config"]), config, run_dir, command)
    vocabulary.require_same(Vocabulary.from_dict(saved["vocabulary"]), str(found[-1]))
    return saved


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    saved: the checkpoint to go on from; None for a new run.
    config: the settings, with the batch size of one rank of this job.
    batch_size: images that this rank reads at a time.
    extra: what every checkpoint says of the run's words and of what it is trained on.
    """

    saved: dict[str, Any] | None
    config: Config
    batch_size: int
    extra: dict[str, Any]


def start(
    config: Config,
    run_dir: Path,
    vocabulary: Vocabulary,
    source: Source,
    world: World,
    *,
    encoders: Encoders | None = None,
    command: str = "train",
    resume: str = NEWEST,
) -> Start:
    """Find what the run goes on from; refuse what it or another rank did not begin with.

    Args:
        config: the settings asked for.
        run_dir: the run.
        vocabulary: the words asked for.
        source: the training data.
        world: this process's rank.
        encoders: those that the run is trained on, if it is.
        command: the one that goes on.
        resume: see `newest_state`.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: it is of other settings, data or encoders.
        VocabularyMismatchError: it is of other words.
        RankError: the ranks differ.
        UserError: the ranks cannot share the images of a step evenly.
    """
    saved = newest_state(config, run_dir, vocabulary, command, resume=resume)
    trained_on = origin(source, encoders)
    require_same_start(config, run_dir, saved, trained_on, world)
    group = BATCHES[command]
    accumulate = config.optim.accumulate if command == "train" else 1
    asked = getattr(config, group)
    share = share_of_batch(saved, asked.batch_size, accumulate, world)
    shared = dataclasses.replace(config, **{group: dataclasses.replace(asked, batch_size=share)})
    return Start(saved, shared, share, {"vocabulary": vocabulary.to_dict(), "origin": trained_on})


def _remedy(earlier: Sequence[Path], resume: str) -> str:
    """What to do about a damaged checkpoint that has `earlier` ones."""
    for path in reversed(earlier):
        try:
            require_intact(path, ours=False)
        except CheckpointError:
            continue
        if resume == NEWEST and path == earlier[-1]:
            return f"--resume previous goes on from {path.name}"
        return f"{path.name} is intact: move the later ones away to go on from it"
    return "there is no earlier one: choose another --run-dir to start anew"


def origin(source: Source, encoders: Encoders | None = None) -> dict[str, str]:
    """Fingerprints of what a run is trained on, for its checkpoints."""
    found = {"training data": source.fingerprint}
    return found if encoders is None else found | {"encoders": encoders.fingerprint}


def require_same_origin(
    saved: Mapping[str, Any] | None, now: Mapping[str, str], run_dir: Path
) -> None:
    """Refuse to go on with a run on other data or encoders than it began with.

    A checkpoint of an earlier version, which does not say, is accepted.

    Raises:
        ConfigError: naming what changed.
    """
    before = (saved or {}).get("origin", {})
    changed = [
        f"{name}: {before[name]} in the run, {value} now"
        for name, value in now.items()
        if before.get(name, value) != value
    ]
    if changed:
        raise ConfigError(
            f"{run_dir} was trained on something else; restore it or choose another --run-dir: "
            + "; ".join(changed)
        )


def require_same_start(
    config: Config,
    run_dir: Path,
    saved: Mapping[str, Any] | None,
    origin: Mapping[str, str],
    world: World,
) -> None:
    """Refuse to start on other data or encoders than before, or on other ones than other ranks.

    Raises:
        ConfigError: naming what changed since the run began.
        RankError: naming the ranks and what differs.
    """
    require_same_origin(saved, origin, run_dir)
    world.require_same(start_facts(config, origin, saved))


def start_facts(
    config: Config, origin: Mapping[str, str], saved: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What must be the same on all ranks of a job when it starts."""
    progress = {} if saved is None else saved["progress"]
    return {
        **flat(config),
        **origin,
        "images seen": progress.get("images", 0),
        "code": code_version(),
        "torch": torch.__version__,
    }


def code_version() -> str:
    """A fingerprint of this project's source files: 16 hexadecimal digits."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in ("alr_layers", "baselines"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def require_same_config(
    saved: Config, asked: Config, directory: Path, command: str = "train"
) -> None:
    """Refuse to go on with a run under settings that would make it another one.

    What may differ is declared with each setting (`resume=True`). `damsm` compares what it reads;
    `train` everything, because it reads the encoders, whose settings are those of `damsm`.

    Raises:
        ConfigError: naming every setting that differs.
    """
    old, new = flat(saved), flat(asked)
    differing = [
        f"{key}: {old[key]!r} in the run, {new[key]!r} asked for"
        for key, one in settings(Config).items()
        if old[key] != new[key] and not one.resume and (command == "train" or one.only != "train")
    ]
    if differing:
        raise ConfigError(
            f"{directory} holds a run with other settings; choose another --run-dir, or ask for "
            "the same:\n  " + "\n  ".join(differing)
        )
