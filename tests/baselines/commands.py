"""The training command at a size that takes a second."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import train
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.stats import read_stats
from tests.support.paths import ROOT
from tests.support.tiny_run import make_tiny_run

BATCH = 4
TINY = (
    "data.train_images=64", "data.test_images=12", "data.max_objects=2",
    "model.feature_dim=8", "model.discriminator_dim=8", "model.condition_dim=12",
    "model.noise_dim=10", f"optim.batch_size={BATCH}", "run.device=cpu", "run.log_every=2",
    "run.grid_every=1000000", "run.checkpoint_every=1000000", "model.base_size=16",
    "model.stages=2", "loss.bank=0", "optim.decay=0", "optim.amp=no",
)  # fmt: skip
# From the first step, where the presets wait, and as printed, where `demo` takes DAMSM's layouts.
AT_ONCE = {
    "alr": ("refine.source=module", "refine.alr.start=0", "refine.alr.ramp=0"),
    "lvr": ("refine.lvr.start=0", "refine.lvr.ramp=0"),
}


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with untrained encoders."""
    return make_tiny_run(tmp_path_factory.mktemp("encoders"))


def train_command(
    model: str, run_dir: Path, encoders: Path, steps: int, *settings: str, refine: str = ""
) -> list[str]:
    """Arguments of `python -m baselines.train`; later settings win."""
    arguments = [model, "--preset", "demo", "--run-dir", str(run_dir), "--encoders", str(encoders)]
    terms = refine or ("alr,lvr" if model == "alrgan" else "")
    if terms:
        arguments += ["--refine", terms]
    at_once = [setting for term in terms.split(",") if term for setting in AT_ONCE[term]]
    for setting in (*TINY, *at_once, f"optim.images={steps * BATCH}", *settings):
        arguments += ["--set", setting]
    return arguments


def train_tiny(
    model: str, run_dir: Path, encoders: Path, steps: int, *settings: str, refine: str = ""
) -> dict[str, Any]:
    """Train in this process and return the last checkpoint."""
    train.main(train_command(model, run_dir, encoders, steps, *settings, refine=refine))
    return load_torch(checkpoints(run_dir)[-1])


def stats_of(run_dir: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = read_stats(run_dir / "stats.jsonl")
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors and values are not equal to the bit."""
    if isinstance(first, Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{path}: {sorted(map(str, first.keys() ^ second.keys()))}"]
        return [d for k in first for d in differences(first[k], second[k], f"{path}/{k}")]
    if isinstance(first, Sequence) and not isinstance(first, str):
        pairs = zip(first, second, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{path}/{i}")]
    return [] if first == second else [f"{path}: {first!r} != {second!r}"]


def train_on_two_ranks(arguments: list[str]) -> None:
    """`baselines.train` with these arguments under torchrun, as two gloo processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "baselines.train", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
