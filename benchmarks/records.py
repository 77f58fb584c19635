"""One measurement as one line of JSON: made, appended, found again."""

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from alr_layers.kernels.requirements import TRITON
from baselines.json_lines import append_line
from benchmarks.cases import PROVIDERS, Case, Shape
from benchmarks.gate import git, sources_digest
from benchmarks.timing import captured, copy_bandwidth, copy_of, measure, peak_memory

Record = dict[str, Any]
RESULTS = Path(__file__).parent / "results"  # where measurements lie unless told otherwise
MODES = ("both", "forward", "backward", "memory", "graph", "host")
KEY = ("case", "provider", "mode", "dtype", "shape_name", "shape_batch", "shape_size")


@dataclass(frozen=True)
class Job:
    """What leads to one record."""

    case: Case
    provider: str
    mode: str
    shape: Shape
    dtype: torch.dtype

    def facts(self) -> Record:
        """The part of the record that is known beforehand, with all of `KEY`."""
        return {
            "case": self.case.name,
            "provider": self.provider,
            "mode": self.mode,
            "dtype": str(self.dtype).removeprefix("torch."),
            **{f"shape_{key}": value for key, value in asdict(self.shape).items()},
        }

    def applies(self, device: torch.device) -> bool:
        """Whether there is such a measurement: compiled functions are graphs of their own."""
        options = PROVIDERS[self.provider].options
        if self.provider == "copy":
            return self.mode in ("both", "forward", "backward")
        if device.type != "cuda":
            return self.mode in ("both", "forward") and PROVIDERS[self.provider].function != "fused"
        return self.mode != "graph" or options is None


def conditions(device: torch.device) -> Record:
    """What a number must be read with."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU {platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": TRITON,
        "cuda": torch.version.cuda if cuda else None,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolution": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "commit": git("rev-parse", "--short", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "alr_layers", "benchmarks")),
        "sources": sources_digest(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "copy_gb_per_s": round(copy_bandwidth(device), 1),
    }


def append(path: Path, record: Record) -> None:
    """Add one record; a run that is cut off loses none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append_line(path, record)


def is_measurement(record: Record) -> bool:
    """Whether a line says what was measured, as those of `benchmarks.run` do."""
    return all(name in record for name in KEY)


def latest(records: Iterable[Record]) -> dict[tuple[Any, ...], Record]:
    """The last record of each measurement."""
    return {tuple(record[name] for name in KEY): record for record in records}


def is_done(job: Job, records: Iterable[Record], sources: str) -> bool:
    """Whether `records` have this measurement of these sources."""
    wanted = {name: job.facts()[name] for name in KEY} | {"sources": sources}
    return any(all(record.get(k) == v for k, v in wanted.items()) for record in records)


def _no_recompilation(provider: str) -> AbstractContextManager[object]:
    """A compiled function that compiles again, or falls back to eager, is an error."""
    if PROVIDERS[provider].options is None:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("fail_on_recompile")
    return stance


class Call:
    """The calls of one job: what is timed and what precedes it."""

    def __init__(self, job: Job, device: torch.device) -> None:
        torch.manual_seed(0)
        self.arguments = job.case.inputs(job.shape, job.dtype, device)
        self.function = job.case.called(job.provider)
        self.steps = "reduce-overhead" in (PROVIDERS[job.provider].options or {}).values()
        self.wanted = [x for x in self.arguments if isinstance(x, torch.Tensor) and x.requires_grad]
        for module in (x for x in self.arguments if isinstance(x, torch.nn.Module)):
            self.wanted += list(module.parameters())
        self.outputs = self._differentiable()
        self.upstream = [torch.randn_like(x) for x in self.outputs]

    def _differentiable(self) -> list[torch.Tensor]:
        return [x for x in self.function(*self.arguments) if x.requires_grad]

    def forward(self) -> object:
        """The function alone."""
        return self.function(*self.arguments)

    def backward(self) -> object:
        """The gradients of what `prepare` computed."""
        return torch.autograd.grad(self.outputs, self.wanted, self.upstream, allow_unused=True)

    def both(self) -> object:
        """A step: the function, and the gradients of all that can have one."""
        return torch.autograd.grad(
            self._differentiable(), self.wanted, self.upstream, allow_unused=True
        )

    def prepare(self, mode: str) -> None:
        """What precedes a timed call and is not timed."""
        if self.steps:
            torch.compiler.cudagraph_mark_step_begin()
        if mode == "backward":
            self.outputs = self._differentiable()


def measured(job: Job, device: torch.device, budget: float) -> Record:
    """The record of one job: its facts and its numbers."""
    record = job.facts()
    floor = job.case.floor_bytes(job.shape, job.dtype, job.mode)
    if floor is not None:
        record["floor_bytes"] = floor
    if job.provider == "copy":
        assert floor is not None
        return record | _times(copy_of(floor, device), device, budget)
    start = time.perf_counter()
    call = Call(job, device)
    call.prepare("both")
    call.both()  # compiles forward and backward, where anything does
    record["first_call_s"] = round(time.perf_counter() - start, 3)
    with _no_recompilation(job.provider):
        if job.mode == "memory":
            return record | {"peak_bytes": peak_memory(call.both, device)}
        if job.mode == "graph":
            return record | _times(captured(call.both, device), device, budget)
        action = call.both if job.mode == "host" else getattr(call, job.mode)
        return record | _times(
            action, device, budget, lambda: call.prepare(job.mode), host=job.mode == "host"
        )


def _times(
    action: Callable[[], object],
    device: torch.device,
    budget: float,
    prepare: Callable[[], object] = lambda: None,
    *,
    host: bool = False,
) -> Record:
    found = measure(action, device, budget=budget, prepare=prepare, host=host)
    return {
        "p20_ms": found.p20,
        "p50_ms": found.p50,
        "p80_ms": found.p80,
        "repeats": found.repeats,
    }


def run_jobs(
    jobs: Iterable[Job], device: torch.device, facts: Record, *, budget: float, until: float
) -> Iterator[Record]:
    """The records of the jobs, in order, as long as `time.monotonic()` is below `until`.

    A job that fails gives a record with an `error` instead of numbers, and the next one goes on.
    """
    for job in jobs:
        if time.monotonic() >= until:
            return
        try:
            yield measured(job, device, budget) | facts
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            yield job.facts() | {"error": message} | facts
