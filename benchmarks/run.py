"""python -m benchmarks.run: gate, measure, append to results/, draw the tables again.

First the tests of correctness run; while one fails nothing is measured. Then every provider of
every case is measured, the most informative first, one JSON line each, in the file of this device
and these versions. `--deadline` ends a stretch in time and `--resume` goes on where one ended.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from baselines.cli import Parser, run_command
from baselines.files import require_file
from baselines.json_lines import read_lines
from baselines.training.distributed import pick_device
from benchmarks import tables
from benchmarks.cases import PROVIDERS, SHAPES, SWEEP, Case, Shape
from benchmarks.gate import pass_gate
from benchmarks.options import duration
from benchmarks.paths import cases
from benchmarks.records import (
    MODES,
    RESULTS,
    Job,
    append,
    conditions,
    is_done,
    is_measurement,
    run_jobs,
)

CPU_BATCH = 2
FOREVER = float("inf")


def results_file(facts: dict[str, Any]) -> Path:
    """One file per device and version of torch."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", facts["device"])
    return RESULTS / f"{name}__torch{facts['torch'].split('+')[0]}.jsonl"


def stamps_file(out: Path) -> Path:
    """Where the gate's stamps lie, beside the results."""
    return out.with_suffix(".gate.json")


def shapes_of(device: torch.device, *, quick: bool) -> list[Shape]:
    """The published shapes and more; on a CPU one of them, two samples a batch."""
    if device.type == "cpu":
        found = [replace(shape, batch=CPU_BATCH) for shape in SHAPES if shape.name == "cub"]
    else:
        found = [*SHAPES, *SWEEP]
    size = 64 if device.type == "cpu" else 128
    return [x for x in found if (x.name, x.size) == ("cub", size)] if quick else found


def informative(job: Job) -> tuple[int, ...]:
    """What to sort by so that a stretch cut short has told the most."""
    every = [*SHAPES, *SWEEP]
    places = [(x.name, x.size) for x in sorted(every, key=lambda x: (x.name == "sweep", -x.size))]
    return (
        MODES.index(job.mode),
        places.index((job.shape.name, job.shape.size)),
        [torch.float32, torch.bfloat16].index(job.dtype),
        list(PROVIDERS).index(job.provider),
    )


def jobs_of(
    chosen: Sequence[Case],
    device: torch.device,
    *,
    shapes: Sequence[Shape],
    modes: Sequence[str] = MODES,
    providers: Sequence[str] | None = None,
) -> Iterator[Job]:
    """Everything there is to measure, the most informative first."""
    dtypes = [torch.float32] if device.type == "cpu" else [torch.float32, torch.bfloat16]
    found = [
        Job(case, provider, mode, shape, dtype)
        for case in chosen
        for provider in case.providers
        if providers is None or provider in providers
        for mode in modes
        for shape in shapes
        if case.follows_size or shape.size == shapes[0].size
        for dtype in dtypes
    ]
    yield from sorted((job for job in found if job.applies(device)), key=informative)


def parser() -> Parser:
    """The command line."""
    names = [case.name for case in cases()]
    found = Parser(prog="python -m benchmarks.run", description=__doc__)
    found.add_argument("--quick", action="store_true", help="one shape, short repeats")
    found.add_argument("--case", action="append", choices=names, help="only this case (repeatable)")
    found.add_argument(
        "--provider", action="append", choices=list(PROVIDERS), help="only this (repeatable)"
    )
    found.add_argument("--mode", action="append", choices=MODES, help="only this (repeatable)")
    found.add_argument("--compare", type=Path, help="an older file of results to compare with")
    found.add_argument("--device", default="auto")
    found.add_argument("--out", type=Path, help="the file to append to (default: results/DEVICE)")
    found.add_argument(
        "--resume", action="store_true", help="leave out what the file has of these sources"
    )
    found.add_argument(
        "--deadline", type=duration, default=FOREVER, metavar="SECONDS", help="begin nothing later"
    )
    found.add_argument("--skip-gate", action="store_true", help="for profiling: writes no result")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Gate, measure, append, draw."""
    until = time.monotonic()
    options = parser().parse_args(arguments)
    until += options.deadline
    earlier = []
    if options.compare:
        require_file(options.compare)
        earlier = read_lines(options.compare, is_measurement)
    device = pick_device(options.device)
    facts = conditions(device)
    out = options.out or results_file(facts)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    if not options.skip_gate:
        print(f"gate: {pass_gate(device, facts, stamps_file(out))}", flush=True)
    chosen = [case for case in cases() if not options.case or case.name in options.case]
    jobs = list(
        jobs_of(
            chosen,
            device,
            shapes=shapes_of(device, quick=options.quick),
            modes=options.mode or MODES,
            providers=options.provider,
        )
    )
    if options.resume:
        done = read_lines(out)
        jobs = [job for job in jobs if not is_done(job, done, facts["sources"])]
    budget = 0.2 if options.quick or device.type == "cpu" else 0.5
    records = []
    for record in run_jobs(jobs, device, facts, budget=budget, until=until):
        records.append(record)
        print(tables.line(record), flush=True)
        if not options.skip_gate:
            append(out, record)
    if len(records) < len(jobs):
        print(
            f"{len(jobs) - len(records)} of {len(jobs)} left at the deadline: go on with --resume"
        )
    if options.compare:
        print(tables.comparison(earlier, records))
    if not options.skip_gate:
        print(f"wrote {out}, {tables.write(out.parent)}")


if __name__ == "__main__":
    run_command(main)
