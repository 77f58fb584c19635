"""Train, measure and tabulate the ablation: `python -m benchmarks.ablation --size cpu --hours 2`.

Every run is a directory below --out that can be left at any moment; the same command goes on. Runs
are single-threaded processes, --jobs of them side by side, the most informative first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from baselines.cli import Parser, run_command, seed_number
from baselines.errors import UserError
from baselines.hosts import HOSTS
from benchmarks.ablation.plan import Task, planned
from benchmarks.ablation.variants import SIZES, VARIANTS
from benchmarks.options import at_least, duration, listed, one_of

HOST_NAMES = [name for name in HOSTS if name != "alrgan"]  # that is attngan with refinement
GRACE = 60  # seconds a run is given to save after its time is up
Processes = dict["subprocess.Popen[bytes]", Task]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="cpu", help="of the machine")
    parser.add_argument(
        "--only",
        type=listed(one_of(*VARIANTS)),
        default=list(VARIANTS),
        metavar="ROW,ROW",
        help=f"some of {', '.join(VARIANTS)}; by default all",
    )
    parser.add_argument(
        "--hosts",
        type=listed(one_of(*HOST_NAMES)),
        default=["attngan"],
        metavar="HOST,HOST",
        help=f"some of {', '.join(HOST_NAMES)}; default attngan",
    )
    parser.add_argument(
        "--objects",
        type=listed(at_least(1)),
        default=[1, 2, 3],
        metavar="N,N",
        help="objects of a scene, default 1,2,3",
    )
    parser.add_argument(
        "--seeds",
        type=listed(seed_number),
        metavar="N,N",
        help="default: four for main rows, three for others",
    )
    parser.add_argument("--hours", type=duration, help="stop after so long; every run is kept")
    parser.add_argument("--jobs", type=at_least(1), default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--list", action="store_true", help="what would run, and what is done")
    parser.add_argument("--table", action="store_true", help="tabulate what is measured and stop")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/ablation"))
    parser.add_argument("--work", nargs=2, metavar=("TASK", "NAME"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    from benchmarks.ablation.work import do, require_planned_encoders

    if args.work:
        kind, name = args.work
        do(kind, name, args.out)
        return
    require_planned_encoders(args.out)
    tasks = planned(args.size, args.hosts, args.only, args.objects, args.seeds)
    if args.list:
        for task in tasks:
            print("done" if task.is_done(args.out) else "to do", task.kind, task.name)
        return
    if not args.table:
        deadline = time.monotonic() + 3600 * args.hours if args.hours is not None else None
        work(tasks, args.out, args.jobs, deadline)
    from benchmarks.ablation.tables import write_results

    print(write_results(args.out, args.results))


def work(tasks: Sequence[Task], root: Path, jobs: int, deadline: float | None) -> None:
    """Do the tasks in order, `jobs` at a time, each in a process of its own.

    At the deadline, and when a signal ends this process, those under way are asked to save.

    Raises:
        UserError: naming the tasks that failed, after all others are done.
    """
    root.mkdir(parents=True, exist_ok=True)
    waiting = [task for task in tasks if not task.is_done(root)]
    running: Processes = {}
    failed: list[str] = []
    try:
        while waiting or running:
            failed += finished(running, root)
            if deadline is not None and time.monotonic() > deadline:
                break
            ready = [task for task in waiting if task.is_ready(root)]
            for task in ready[: jobs - len(running)]:
                waiting.remove(task)
                running[begin(task, root)] = task
            if not running:
                break  # what is left waits for something that failed
            time.sleep(0.5)
    finally:
        stop(running)
    if failed:
        raise UserError(f"{len(failed)} failed, see the logs in {root}: {', '.join(failed)}")


def begin(task: Task, root: Path) -> subprocess.Popen[bytes]:
    """Start a task's process; it gets our signals through us alone, since a second ends it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.ablation", "--out", str(root)]
    with open(root / f"{task.name}.log", "ab") as log:
        return subprocess.Popen(
            [*command, "--work", task.kind, task.name],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finished(running: Processes, root: Path) -> list[str]:
    """Take out the processes that have ended, say how, and return those that failed."""
    failed = []
    for process in [process for process in running if process.poll() is not None]:
        task = running.pop(process)
        if process.returncode:
            failed.append(task.label)
        # A run that a signal ends saves, and ends well: the same command goes on with it.
        ended = "failed" if process.returncode else "done" if task.is_done(root) else "left"
        print(f"{ended}: {task.label}", flush=True)
    return failed


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask for an end, and wait until everything is saved."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    run_command(main)
