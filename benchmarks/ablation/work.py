"""What a process of the ablation does: encoders, one run, or its measurements."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from baselines import damsm
from baselines.errors import UserError
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


def train_encoders(name: str, root: Path) -> None:
    """DAMSM for all runs of a size and number of objects; marked unless a signal ended it."""
    size, _, objects = name.split("-")
    config = build_config(SIZES[size], VARIANTS["host"], "attngan", int(objects), seed=0)
    # Retrieval among 500 held-out images chooses the best epoch; more would only take longer.
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, test_images=500))
    with started(config.run.device) as world:
        damsm.run(config, root / name, None, world)
    if images_of(checkpoints(root / name)[-1]) >= config.encoder.images:
        (root / name / DONE).touch()
