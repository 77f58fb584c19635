"""What a process of the ablation does: encoders, one run, or its measurements."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from baselines import damsm
from baselines.config import Config, load_config
from baselines.errors import UserError
from baselines.runs import CONFIG
from baselines.training.checkpoint import checkpoints, images_of
from baselines.training.distributed import started
from benchmarks.ablation.runs import DONE, AblationRun, train_run
from benchmarks.ablation.variants import SIZES, VARIANTS, build_config


def do(kind: str, name: str, root: Path) -> None:
    """Carry out a task by its kind and the name of its directory."""
    if kind == "encoders":
        train_encoders(name, root)
    elif kind == "train":
        train_run(named(name), root)
    else:
        from benchmarks.ablation.measure import measure_run

        measure_run(named(name), root)


def named(name: str) -> AblationRun:
    """The run whose directory is called `name`.

    Raises:
        UserError: no run is called so.
    """
    try:
        size, host, rest = name.split("-", 2)
        variant, objects, seed = rest.rsplit("-", 2)
        run = AblationRun(size, host, variant, int(objects), int(seed.removeprefix("s")))
    except ValueError:
        run = None
    if run is None or run.name != name or size not in SIZES or variant not in VARIANTS:
        raise UserError(f"{name}: no run of the ablation; see --list")
    return run


def encoder_config(name: str) -> Config:
    """The configuration of the encoders whose directory is called `name`."""
    size, _, objects = name.split("-")
    config = build_config(SIZES[size], VARIANTS["host"], "attngan", int(objects), seed=0)
    # Retrieval among 500 held-out images chooses the best epoch; more would only take longer.
    return dataclasses.replace(config, data=dataclasses.replace(config.data, test_images=500))


def require_planned_encoders(root: Path) -> None:
    """Refuse a folder whose runs are not what its name says.

    What a size trains has changed before: runs on the encoders of an older plan would count as
    done, and be tabulated as if of the new one.

    Raises:
        UserError: naming the encoders and the first setting that differs. What `amp=auto` came to
            is no difference.
    """
    for path in sorted(root.glob(f"*-encoders-[123]/{CONFIG}")):
        name = path.parent.name
        if name.split("-")[0] not in SIZES:
            continue
        found = dataclasses.asdict(load_config(path).encoder)
        planned = dataclasses.asdict(encoder_config(name).encoder)
        for key in planned:
            if key != "amp" and found[key] != planned[key]:
                raise UserError(
                    f"{path.parent}: trained with encoder.{key}={found[key]}, this size has "
                    f"{planned[key]}; take another --out, its runs are of an older plan"
                )


def train_encoders(name: str, root: Path) -> None:
    """DAMSM for all runs of a size and number of objects; marked unless a signal ended it."""
    config = encoder_config(name)
    with started(config.run.device) as world:
        damsm.run(config, root / name, None, world)
    if images_of(checkpoints(root / name)[-1]) >= config.encoder.images:
        (root / name / DONE).touch()
