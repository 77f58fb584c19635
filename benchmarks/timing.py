"""Times and memory of a call, on a GPU by its own events, on a CPU by the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles

import torch

CACHE_BYTES = 256 * 2**20  # several times the level-2 cache of any GPU


@dataclass(frozen=True)
class Timing:
    """Milliseconds; `first` is the first call, which compiles where anything does."""

    p20: float
    p50: float
    p80: float
    first: float
    repeats: int


def _nothing() -> None:
    """Nothing precedes the call."""


def _by_events(call: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def _by_clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def clock_of(device: torch.device, *, host: bool) -> Callable[[Callable[[], object]], float]:
    """What takes the time of one call: the GPU, or the host until the call returns."""
    return _by_clock if host or device.type != "cuda" else _by_events


def measure(
    call: Callable[[], object],
    device: torch.device,
    *,
    budget: float,
    prepare: Callable[[], object] = _nothing,
    host: bool = False,
) -> Timing:
    """Repeat `call` for about `budget` seconds after warming up.

    On a GPU the level-2 cache is emptied before every repeat, outside the timed region, so that
    bytes come from memory as they do in training. It is emptied by reading: what a write leaves in
    the cache would have to be written back at the expense of the call.

    Args:
        call: what is timed.
        device: where it runs.
        budget: seconds, of which the warm-up takes a part.
        prepare: run before every repeat and not timed.
        host: take the time until the call returns, when the GPU may still be at work.
    """
    on_gpu = device.type == "cuda"
    once = clock_of(device, host=host)
    cache = torch.zeros(CACHE_BYTES, dtype=torch.int8, device=device) if on_gpu else None
    start = time.perf_counter()
    prepare()
    first = once(call)
    times: list[float] = []
    deadline = time.perf_counter() + budget
    warm = 3 if on_gpu else 1
    while len(times) < warm + 3 or (time.perf_counter() < deadline and len(times) < 200):
        prepare()
        if cache is not None:
            cache.view(torch.int64).amax()
            if host:
                torch.cuda.synchronize(device)
        times.append(once(call))
        if not on_gpu and time.perf_counter() - start > 6 * budget:
            break
    kept = times[warm:] or times
    cuts = quantiles(kept, n=5, method="inclusive") if len(kept) > 1 else kept * 4
    median = sorted(kept)[len(kept) // 2]
    return Timing(cuts[0], median, cuts[3], first, len(kept))


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call as a CUDA graph: what is returned replays it on the same tensors."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


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


def copy_of(size: int, device: torch.device) -> Callable[[], object]:
    """A copy that reads and writes `size` bytes together."""
    source = torch.randint(0, 127, (max(1, size // 2),), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a large copy on this device, counting bytes read and bytes written."""
    size = (1 << 31) if device.type == "cuda" else (1 << 28)
    found = measure(copy_of(size, device), device, budget=1.0)
    return size / found.p50 / 1e6
