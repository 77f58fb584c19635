"""Loading processes that cannot hang a run: checked before, limited while, ended after.

Pixels cross the processes as uint8, a quarter of the bytes, and become floats where they are used.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from baselines.data.source import DataError
from baselines.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
# The batches that every process may have ready.
AHEAD = 2
# Seconds without a batch after which a run ends instead of waiting on.
PATIENCE = 300.0
# Seconds in which a process whose connections are broken is dead as well.
DYING = 5.0

Item = TypeVar("Item")
Out = TypeVar("Out")


class Fault(NamedTuple):
    """What a loading process found wrong, in place of an item or a batch."""

    message: str


class _Guarded(Dataset[Any]):
    """Turns what the user can mend into a `Fault`, which reaches the run as one line."""

    def __init__(self, view: Dataset[Any]) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)  # type: ignore[arg-type]  # every view of ours has a length

    def __getitem__(self, place: Any) -> Any:
        try:
            return self.view[place]
        except UserError as error:
            return Fault(str(error))


def _collated(collate: Callable[[Sequence[Any]], Out], items: Sequence[Any]) -> Out | Fault:
    return next((item for item in items if isinstance(item, Fault)), None) or collate(items)


class BatchLoader(Generic[Out]):
    """Batches of a view, from this process or from `workers` others.

    Args:
        view: indexed by what `sampler` gives, or by 0 ... len - 1 without one.
        collate: items → a batch.
        finish: done to every batch in this process.
        batch_bytes: what a batch takes in shared memory, at most.
        patience: seconds without a batch after which the run ends.

    Iterating raises:
        DataError: an item cannot be had (its own message), shared memory is too small, or the
            processes died or stopped answering.
    """

    def __init__(
        self,
        view: Dataset[Item],
        *,
        batch_size: int,
        collate: Callable[[Sequence[Item]], Out],
        finish: Callable[[Out], Out],
        batch_bytes: int,
        sampler: Sampler[Any] | None = None,
        workers: int = 0,
        patience: float = PATIENCE,
    ) -> None:
        self.dataset, self.finish, self.workers = view, finish, workers
        self.batch_bytes, self.patience = batch_bytes, patience
        self._loader: DataLoader[Any] = DataLoader(
            _Guarded(view),
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=partial(_collated, collate),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            timeout=patience if workers else 0,
            worker_init_fn=_leave_signals_to_the_run,
            pin_memory=torch.cuda.is_available(),
            # Without one of its own a DataLoader takes its base seed from the global generator.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Out]:
        if self.workers:
            require_shared_memory(self.batch_bytes * (AHEAD * self.workers + 1), self.workers)
        before = set(active_children())
        iterator = iter(self._loader)
        processes = set(active_children()) - before
        end = partial(_end, iterator, processes)
        # Also where the run ends in the middle: Python would wait for the processes for ever.
        atexit.register(end)
        try:
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except (RuntimeError, OSError, EOFError) as error:
                    # A batch that a process had ready may go with it, in the middle of the reading.
                    raise self._explained(error, _any_died(processes)) from error
                if isinstance(batch, Fault):
                    raise DataError(batch.message)
                yield self.finish(batch)
        finally:
            atexit.unregister(end)
            end()

    def _explained(self, error: Exception, dead: bool) -> Exception:
        text = str(error)
        if "timed out" in text:
            return DataError(
                f"no batch came from the {self.workers} loading processes for {self.patience:g} s: "
                "the file system does not answer, or shared memory is full. data.workers=0 loads "
                "in the run itself and shows which image it is"
            )
        return dead_process(error, known=dead) or error


def dead_process(error: Exception, *, known: bool = False) -> DataError | None:
    """Explain that a loading process died; None where `error` does not say so, unless `known`."""
    text = " ".join(str(error).split())
    told = isinstance(error, RuntimeError) and text.startswith("DataLoader worker")
    if not (told or known):
        return None
    return DataError(
        f"a loading process died ({text[:160]}): most often memory ran out. Try fewer "
        "(data.workers), or 0 to load in the run itself"
    )


def _any_died(processes: set[BaseProcess]) -> bool:
    """Whether one is dead, or dying: its connections break before the system counts it as dead."""
    try:
        ended = wait([process.sentinel for process in processes], timeout=DYING)
        for process in processes:
            if process.sentinel in ended:
                process.join()
    except RuntimeError:  # from the DataLoader's own handler of SIGCHLD, while we wait
        return True
    return bool(ended)


def _leave_signals_to_the_run(worker: int) -> None:
    """Ignore what ends a whole group: the run finishes its step, saves, and ends its processes."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end(iterator: Any, processes: set[BaseProcess]) -> None:
    """End the loading processes, by force where they do not answer."""
    if processes:
        # What the iterator does when it is collected, but now: it takes its processes off the list
        # of those whose death is an error.
        iterator._shutdown_workers()
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


def require_shared_memory(need: int, workers: int) -> None:
    """Refuse to start processes whose batches would not fit: they would hang.

    Raises:
        DataError: says how much there is, how much is needed, and what to do.
    """
    if not SHARED_MEMORY.is_dir():
        return
    # The ranks of one machine share it, and all of them ask before any of them fills it.
    need *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < need:
        raise DataError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and batches of {workers} loading "
            f"processes take up to {need / 2**20:.0f} MiB: load in the run itself (data.workers=0) "
            "or give it more (docker run --shm-size=2g)"
        )
