"""Reads torch files of unknown origin in a child process that may not run away.

`torch.load(weights_only=True)` runs no code of a file, but a few hundred bytes can still keep it
busy for ever or fill the memory. So a child reads the file under limits and hands back nothing but
named tensors, as safetensors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
from torch import Tensor

from baselines.conversion import foreign_child
from baselines.data.reading import require_regular
from baselines.training.checkpoint import CheckpointError

SECONDS = 120
MEMORY = 2**30
NETWORKS = foreign_child.NETWORKS


def read_foreign(
    path: Path, *, seconds: float = SECONDS, memory: int = MEMORY
) -> dict[str, Tensor]:
    """The tensors of a state_dict that `torch.save` wrote, on the CPU.

    A file of several networks under "model" gives the tensors of all, as "model.netG.fc.weight".

    Args:
        path: a file of any torch version since 0.3.
        seconds: how long the reading may take, besides a second for every 10 MB.
        memory: how many bytes it may need, besides four times the size of the file.

    Raises:
        CheckpointError: missing, damaged, no plain state_dict, or it needs more than that.
    """
    try:
        require_regular(path)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    seconds, memory = seconds + size / 1e7, memory + foreign_child.EXPANSION * size
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "tensors.safetensors"
        # By its path, not as a module of ours: it starts in half the time.
        command = [sys.executable, foreign_child.__file__, str(path), str(result), str(memory)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=seconds,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(
                f"{path}: reading it takes more than {seconds:.0f} s, far more than weights of "
                f"{size:,} bytes need: it is damaged or made to hang; get it from its author again"
            ) from error
        if done.returncode or not done.stdout:
            raise CheckpointError(
                f"{path}: reading it failed or needed more than {memory / 2**30:.1f} GiB of memory "
                f"(exit status {done.returncode}): it is damaged or made to fill the memory; get "
                "it from its author again"
            )
        fault = json.loads(done.stdout)["fault"]
        if fault:
            raise CheckpointError(f"{path}: {fault}")
        return safetensors.torch.load(result.read_bytes())
