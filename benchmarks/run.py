"""python -m benchmarks.run: gate, measure, append to results/, draw the tables again.

First the tests of correctness run; while one fails nothing is measured. Then every provider of
every case is timed, one JSON line each, in the file of this device and these versions.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import tables
from benchmarks.cases import SHAPES, SWEEP, Case, Shape, cases
from benchmarks.timing import copy_bandwidth, measure, peak_memory

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
MODES = ("forward", "backward", "both", "memory")
CPU_BATCH = 2


def gate(device: torch.device) -> None:
    """Stop unless the tests of what is measured pass on this device."""
    chosen = ["tests/library/test_equations.py"]
    if device.type == "cuda":
        chosen = ["-m", "gpu", "tests/library/test_kernels_gpu.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{run.stdout}{run.stderr}\nThe gate is red: nothing is measured.")
    print(f"gate: {run.stdout.strip().splitlines()[-1]}")


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip()


def conditions(device: torch.device) -> dict[str, Any]:
    """What a number must be read with."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU {platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": triton,
        "cuda": torch.version.cuda if cuda else None,
        "commit": _git("rev-parse", "--short", "HEAD") or None,
        "dirty": bool(_git("status", "--porcelain", "--", "alr_layers", "benchmarks")),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "copy_gb_per_s": round(copy_bandwidth(device), 1),
    }


def results_file(facts: dict[str, Any]) -> Path:
    """One file per device and version of torch."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", facts["device"])
    return RESULTS / f"{name}__torch{facts['torch'].split('+')[0]}.jsonl"


def _calls(
    case: Case, provider: str, shape: Shape, dtype: torch.dtype, device: torch.device
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Mode -> (what is timed, what precedes it untimed)."""
    arguments = case.inputs(shape, dtype, device)
    function = case.providers[provider]
    wanted = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    for module in (x for x in arguments if isinstance(x, torch.nn.Module)):
        wanted += list(module.parameters())
    example = [x for x in function(*arguments) if x.requires_grad]
    upstream = [torch.randn_like(x) for x in example]
    graph: list[Any] = [example]

    def forward() -> object:
        return function(*arguments)

    def keep_graph() -> None:
        graph[0] = [x for x in function(*arguments) if x.requires_grad]

    def backward() -> object:
        return torch.autograd.grad(graph[0], wanted, upstream)

    def both() -> object:
        outputs = [x for x in function(*arguments) if x.requires_grad]
        return torch.autograd.grad(outputs, wanted, upstream)

    def nothing() -> None:
        """Nothing precedes it."""

    return {
        "forward": (forward, nothing),
        "backward": (backward, keep_graph),
        "both": (both, nothing),
    }


def measured(
    case: Case,
    provider: str,
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    *,
    modes: tuple[str, ...],
    budget: float,
) -> Iterator[dict[str, Any]]:
    """One record per mode."""
    torch.manual_seed(0)
    start = time.perf_counter()
    calls = _calls(case, provider, shape, dtype, device)
    compiled_in = time.perf_counter() - start
    for mode in modes:
        record: dict[str, Any] = {
            "case": case.name,
            "provider": provider,
            "mode": mode,
            "dtype": str(dtype).removeprefix("torch."),
            "first_call_s": round(compiled_in, 3),
            **{f"shape_{key}": value for key, value in asdict(shape).items()},
        }
        if mode == "memory":
            if device.type == "cuda":
                record["peak_bytes"] = peak_memory(calls["both"][0], device)
                yield record
            continue
        call, prepare = calls[mode]
        found = measure(call, device, budget=budget, prepare=prepare)
        record |= {"p20_ms": found.p20, "p50_ms": found.p50, "p80_ms": found.p80}
        record["repeats"] = found.repeats
        floor = case.floor_bytes(shape, dtype, mode)
        yield record if floor is None else record | {"floor_bytes": floor}


def plan(arguments: argparse.Namespace, device: torch.device) -> Iterator[tuple[Any, ...]]:
    """(case, provider, shape, dtype) of everything to measure."""
    cpu = device.type == "cpu"
    shapes = [replace(x, batch=CPU_BATCH) for x in SHAPES] if cpu else [*SHAPES, *SWEEP]
    if arguments.quick:
        shapes = [x for x in shapes if (x.name, x.size) == ("cub", 64)]
    elif cpu:
        shapes = [x for x in shapes if x.name == "cub"]
    dtypes = [torch.float32] if cpu else [torch.float32, torch.bfloat16]
    for case in cases():
        if arguments.case and case.name not in arguments.case:
            continue
        for provider in case.providers:
            if arguments.provider and provider not in arguments.provider:
                continue
            if provider == "fused" and cpu:
                continue
            for shape in shapes:
                for dtype in dtypes:
                    # DAMSM's regions are 17 x 17 whatever the size of the stage.
                    if case.name.startswith("damsm") and shape.size != shapes[0].size:
                        continue
                    yield case, provider, shape, dtype


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape, short repeats")
    parser.add_argument("--case", action="append", help="only this case (may be repeated)")
    parser.add_argument("--provider", action="append", help="only this provider (repeatable)")
    parser.add_argument("--compare", type=Path, help="an older file of results to compare with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--skip-gate", action="store_true", help="for profiling: writes no result")
    return parser.parse_args()


def main() -> None:
    """Gate, measure, append, draw."""
    arguments = parse()
    device = torch.device(arguments.device)
    if not arguments.skip_gate:
        gate(device)
    facts = conditions(device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    out = results_file(facts)
    RESULTS.mkdir(exist_ok=True)
    budget = 0.2 if arguments.quick or device.type == "cpu" else 0.5
    modes = MODES if device.type == "cuda" else ("forward", "both")
    records = []
    for case, provider, shape, dtype in plan(arguments, device):
        for record in measured(case, provider, shape, dtype, device, modes=modes, budget=budget):
            record |= facts
            records.append(record)
            print(tables.line(record), flush=True)
            if not arguments.skip_gate:
                with out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    if arguments.compare:
        print(tables.comparison(tables.read(arguments.compare), records))
    if not arguments.skip_gate:
        print(f"wrote {out}, {tables.write(RESULTS)}")


if __name__ == "__main__":
    main()
