"""Times and memory of a call, on a GPU by its own events, on a CPU by the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds; `first` is the call that compiles."""

    p20: float
    p50: float
    p80: float
    first: float
    repeats: int


def _once(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def measure(
    call: Callable[[], object],
    device: torch.device,
    *,
    budget: float,
    prepare: Callable[[], object] = lambda: None,
) -> Timing:
    """Repeat `call` for about `budget` seconds after warming up.

    On a GPU the level-2 cache is flushed before every repeat, outside the timed region, so that
    bytes come from memory as they do in training.

    Args:
        call: what is timed.
        device: where it runs.
        budget: seconds, of which the warm-up takes a part.
        prepare: run before every repeat and not timed.
    """
    flush = None
    if device.type == "cuda":
        flush = torch.empty(256 * 2**20, dtype=torch.int8, device=device)
    start = time.perf_counter()
    prepare()
    first = _once(call, device)
    times: list[float] = []
    deadline = time.perf_counter() + budget
    warm = 3 if device.type == "cuda" else 1
    while len(times) < warm + 3 or (time.perf_counter() < deadline and len(times) < 200):
        prepare()
        if flush is not None:
            flush.zero_()
        times.append(_once(call, device))
        if device.type == "cpu" and time.perf_counter() - start > 6 * budget:
            break
    kept = times[warm:] or times
    cuts = quantiles(kept, n=5, method="inclusive") if len(kept) > 1 else kept * 4
    median = sorted(kept)[len(kept) // 2]
    return Timing(cuts[0], median, cuts[3], first, len(kept))


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Bytes allocated on the GPU beyond what lay there before the call."""
    call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    kept = call()
    torch.cuda.synchronize(device)
    del kept
    return torch.cuda.max_memory_allocated(device) - before


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a large copy on this device, counting bytes read and bytes written."""
    size = (1 << 30) if device.type == "cuda" else (1 << 27)
    source = torch.randint(0, 127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    found = measure(lambda: target.copy_(source), device, budget=1.0)
    return 2 * size / found.p50 / 1e6
