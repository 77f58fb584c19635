"""Train, measure and tabulate the ablation: `python -m benchmarks.ablation --size cpu --hours 2`.

Every run is a directory below --out that can be left at any moment; the same command goes on. Runs
are single-threaded processes, --jobs of them side by side, the most informative first.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from baselines.cli import run_command
from baselines.errors import UserError
from benchmarks.ablation.plan import Task, planned
from benchmarks.ablation.variants import SIZES, VARIANTS

GRACE = 60  # seconds a run is given to save after its time is up


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="cpu", help="of the machine")
    parser.add_argument("--only", help=f"some of {','.join(VARIANTS)}; by default all")
    parser.add_argument("--hosts", default="attngan", help="comma-separated; default attngan")
    parser.add_argument("--objects", default="1,2,3", help="objects of a scene, default 1,2,3")
    parser.add_argument(
        "--seeds", help="such as 0,1; default: four for main rows, three for others"
    )
    parser.add_argument("--hours", type=float, help="stop after so long; every run is kept")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--list", action="store_true", help="what would run, and what is done")
    parser.add_argument("--table", action="store_true", help="tabulate what is measured and stop")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/ablation"))
    parser.add_argument("--work", nargs=2, metavar=("TASK", "NAME"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    if args.work:
        from benchmarks.ablation.work import do

        kind, name = args.work
        do(kind, name, args.out)
        return
    names = args.only.split(",") if args.only else list(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise UserError(f"--only {unknown[0]}: expected some of {', '.join(VARIANTS)}")
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else None
    objects = [int(number) for number in args.objects.split(",")]
    tasks = planned(args.size, args.hosts.split(","), names, objects, seeds)
    if args.list:
        for task in tasks:
            print("done" if task.is_done(args.out) else "to do", task.kind, task.name)
        return
    if not args.table:
        deadline = time.monotonic() + 3600 * args.hours if args.hours else None
        work(tasks, args.out, args.jobs, deadline)
    from benchmarks.ablation.tables import write_results

    print(write_results(args.out, args.results))


def work(tasks: Sequence[Task], root: Path, jobs: int, deadline: float | None) -> None:
    """Do the tasks in order, `jobs` at a time, each in a process of its own."""
    root.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    waiting = [task for task in tasks if not task.is_done(root)]
    running: dict[subprocess.Popen[bytes], Task] = {}
    failed: list[str] = []
    started: set[str] = set()
    while waiting or running:
        for process in [p for p in running if p.poll() is not None]:
            task = running.pop(process)
            if process.returncode:
                failed.append(task.label)
            # A run that a signal ends saves, and ends well: the same command goes on with it.
            ended = "failed" if process.returncode else "done" if task.is_done(root) else "left"
            print(f"{ended}: {task.label}", flush=True)
        if deadline is not None and time.monotonic() > deadline:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
            break
        ready = [t for t in waiting if t.is_ready(root) and t.label not in started]
        while ready and len(running) < jobs:
            task = ready.pop(0)
            waiting.remove(task)
            started.add(task.label)
            with open(root / f"{task.name}.log", "ab") as log:
                command = [sys.executable, "-m", "benchmarks.ablation", "--out", str(root)]
                process = subprocess.Popen(
                    [*command, "--work", task.kind, task.name],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            running[process] = task
        if not running and not ready:
            break  # what is left waits for something that failed
        time.sleep(0.5)
    if failed:
        raise UserError(f"{len(failed)} failed, see the logs in {root}: {', '.join(failed)}")


if __name__ == "__main__":
    run_command(main)
