"""The stages of `benchmarks.gpu_hour`: each yields records until the stretch is over."""

import importlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch

from benchmarks import tables
from benchmarks.cases import PROVIDERS, SHAPES, Case, Shape, has_fused
from benchmarks.gate import ROOT
from benchmarks.paths import cases
from benchmarks.records import Call, Job, Record, is_done, run_jobs
from benchmarks.training_step import HOSTS

STEP = "benchmarks.training_step"
PRECISIONS = {"layout_context": ("ieee", "pieces"), "masked_difference": ("ieee", "bf16x6")}
WARPS = (2, 4, 8)
BLOCKS = (32, 64, 128)
SWEPT = {"layout_context": ("layout_tile",), "masked_difference": ("gram_tile", "difference_tile")}


@dataclass
class Stretch:
    """What a stage works with: the device, what is known and recorded, and when to stop."""

    device: torch.device
    facts: Record
    records: list[Record]
    until: float
    budget: float = 0.3
    shapes: tuple[Shape, ...] = SHAPES
    providers: tuple[str, ...] = tuple(PROVIDERS)

    def is_over(self) -> bool:
        """Whether nothing new may begin."""
        return time.monotonic() >= self.until

    def at(self, size: int, name: str | None = None) -> list[Shape]:
        """The shapes of that size (or all there are, if none has it)."""
        wanted = [x for x in self.shapes if x.size == size] or list(self.shapes)
        return [x for x in wanted if name in (None, x.name)] or wanted[:1]

    def measure(self, jobs: Iterable[Job]) -> Iterator[Record]:
        """The records of those jobs that have none yet."""
        new = [
            job
            for job in jobs
            if job.provider in self.providers
            and job.applies(self.device)
            and not is_done(job, self.records, self.facts["sources"])
        ]
        yield from run_jobs(new, self.device, {}, budget=self.budget, until=self.until)


def line(record: Record) -> str:
    """One record in one line."""
    if "case" in record and "shape_name" in record:
        return tables.line(record)
    kept = {k: v for k, v in record.items() if k in ("kind", "name", "share", "ms", "text")}
    return ", ".join(f"{key} {value}" for key, value in kept.items())


def _jobs(
    chosen: Iterable[Case],
    shapes: Iterable[Shape],
    modes: Iterable[str],
    providers: Iterable[str] | None = None,
    dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16),
) -> Iterator[Job]:
    for shape, mode, dtype, case in itertools.product(shapes, modes, dtypes, chosen):
        wanted = case.providers if providers is None else providers
        for provider in (name for name in wanted if name in case.providers):
            yield Job(case, provider, mode, shape, dtype)


def _named(*names: str) -> list[Case]:
    every = {case.name: case for case in cases()}
    return [every[name] for name in names]


def _ops() -> list[Case]:
    return [case for case in cases() if case.moved]


def quick(stretch: Stretch) -> Iterator[Record]:
    """Every op and the path, with φ and without, at CUB's shape."""
    wanted = [*_ops(), *_named("loss_path", "loss_path_without_phi")]
    yield from stretch.measure(_jobs(wanted, stretch.at(128, "cub"), ("both",)))


def kernels(stretch: Stretch) -> Iterator[Record]:
    """What each kernel takes in a step of the path: its name, its share, its time."""
    (case,) = _named("loss_path")
    for shape, provider in itertools.product(
        stretch.at(128), ("eager", "compiled", "fused", "fused + compile")
    ):
        job = Job(case, provider, "both", shape, torch.float32)
        wanted = provider in case.providers and provider in stretch.providers
        if wanted and job.applies(stretch.device) and not stretch.is_over():
            yield from profiled(job, stretch.device)


def profiled(job: Job, device: torch.device, repeats: int = 5) -> Iterator[Record]:
    """One record per kernel of a step, the longest first (on a CPU: per operator)."""
    call = Call(job, device)
    for _ in range(3):
        call.both()
    cuda = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if cuda else activity.CPU]) as profile:
        for _ in range(repeats):
            call.both()
        if cuda:
            torch.cuda.synchronize(device)
    times = {
        event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total)
        for event in profile.key_averages()
    }
    total = sum(times.values()) or 1
    for name, spent in sorted(times.items(), key=lambda item: -item[1])[:25]:
        yield {
            "kind": "kernel",
            "case": job.case.name,
            "provider": job.provider,
            "shape": job.shape.name,
            "name": name[:120],
            "ms": spent / repeats / 1e3,
            "share": round(spent / total, 4),
        }


def phi(stretch: Stretch) -> Iterator[Record]:
    """φ alone in every variant, and what memory it takes."""
    yield from stretch.measure(_jobs(_named("phi"), stretch.at(128), ("both", "memory")))


def sweep(stretch: Stretch) -> Iterator[Record]:
    """The kernels with products, over precision, warps and tiles; what fails is recorded too."""
    if not has_fused() or stretch.device.type != "cuda":
        return
    for case, shape in itertools.product(_named(*SWEPT), stretch.at(128)):
        for dtype in (torch.float32, torch.bfloat16):
            for tile in SWEPT[case.name]:
                yield from _swept(stretch, Job(case, "fused", "both", shape, dtype), tile)


def _swept(stretch: Stretch, job: Job, name: str) -> Iterator[Record]:
    tiles = importlib.import_module("alr_layers.kernels.tiles")
    original = getattr(tiles, name)
    done = [r["setting"] for r in stretch.records if r.get("kind") == "sweep"]
    precisions = PRECISIONS[job.case.name] if job.dtype == torch.float32 else ("native",)
    for precision, warps, block in itertools.product(precisions, WARPS, BLOCKS):
        setting = {**job.facts(), "tile": name, "precision": precision} | {
            "warps": warps,
            "block_n": block,
        }
        if stretch.is_over() or setting in done:
            continue

        changed = partial(_other_tile, original, precision, warps, block)
        with mock.patch.object(tiles, name, changed):
            for record in run_jobs([job], stretch.device, {}, budget=0.1, until=stretch.until):
                yield {**record, "kind": "sweep", "mode": "sweep", "setting": setting}


def _other_tile(
    original: Callable[..., Any],
    precision: str,
    warps: int,
    block: int,
    *arguments: Any,
    **more: Any,
) -> Any:
    """What `original` chooses, with other numbers; the block of channels stays."""
    tile = original(*arguments, **more)
    return tile._replace(precision=precision, warps=warps, block_n=block)


def graphs(stretch: Stretch) -> Iterator[Record]:
    """64 x 64, where launches decide: plain, replayed, and the time of the host."""
    chosen = _named("loss_path", "loss_path_without_phi")
    yield from stretch.measure(
        _jobs(
            chosen,
            stretch.at(64),
            ("both", "graph", "host"),
            ("eager", "compiled", "reduce-overhead", "fused", "fused + compile"),
        )
    )


def memory(stretch: Stretch) -> Iterator[Record]:
    """Peak memory beyond the inputs."""
    chosen = [*_named("loss_path", "loss_path_without_phi"), *_ops()]
    wanted = ("transcription", "eager", "compiled", "fused")
    yield from stretch.measure(_jobs(chosen, stretch.at(128), ("memory",), wanted))


def paths(stretch: Stretch) -> Iterator[Record]:
    """The path with φ and without, and the ops, at the other published shapes."""
    for size in (128, 64):
        chosen = [*_named("loss_path", "loss_path_without_phi"), *_ops()]
        yield from stretch.measure(_jobs(chosen, stretch.at(size), ("both",)))


def training(stretch: Stretch) -> Iterator[Record]:
    """A training step of each host that has no record yet, in a process of its own."""
    done = {r.get("host") for r in stretch.records if r.get("kind") == "training"}
    for host in (name for name in HOSTS.split(",") if name and name not in done):
        if stretch.is_over():
            return
        left = max(1.0, stretch.until - time.monotonic())
        command = [sys.executable, "-m", STEP, "--device", stretch.device.type, "--hosts", host]
        try:
            run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            return
        text = run.stdout if run.returncode == 0 else run.stdout + run.stderr
        yield {"kind": "training", "host": host, "text": text[-4000:]}
