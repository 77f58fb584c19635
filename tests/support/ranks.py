"""Several processes that train together on this machine, started one by one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from baselines.cli import run_command
from baselines.training import distributed
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.recorder import Hook
from tests.support.toy_training import Samples, ToyObjective, train_toy

def main(argv):
    run = Path(sys.argv[1])
    found = checkpoints(run)
    saved = load_torch(found[-1]) if found else None
    with distributed.started("cpu") as world:
        rank, size = world.rank, world.size
        samples = Samples()
        {prepare}
        batch = distributed.share_of_batch(saved, 8 // size, 1, world)
        train_toy(
            run, {steps}, world=world, samples=samples, batch_size=batch, saved=saved
        )
        {after}

run_command(main)
"""


def start_ranks(
    run: Path, size: int, steps: int, *, prepare: str = "pass", after: str = "pass"
) -> list[subprocess.Popen]:
    """Start `size` ranks of a toy training; `prepare` and `after` are code of every rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = PROGRAM.format(steps=steps, prepare=prepare, after=after)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, str(run)],
            cwd=ROOT, env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(ranks: list[subprocess.Popen], timeout: float = 240) -> list[tuple[int, str]]:
    """Exit status and standard error of every rank, in order."""
    return [(rank.wait(timeout), rank.stderr.read()) for rank in ranks]
