"""Signals that ask a run to stop: the step under way is finished, a wait for data is not."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopWaiting(BaseException):
    """Breaks a wait; no part of a training step runs while it can be raised."""


class Interrupts:
    """What signals have asked for since training began.

    The first SIGINT, SIGTERM or SIGHUP sets `received`; the second has its ordinary effect, which
    is to end the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waiting = self._breakable = False
        self._death: tuple[int, FrameType | None] | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Note signals from now on, but those that are ignored (as under nohup)."""
        for name in STOPPING:
            handler = signal.getsignal(name)
            if handler is not signal.SIG_IGN:
                self._previous[name] = handler
                signal.signal(name, self._note)

    def uninstall(self) -> None:
        """Give the signals back."""
        for name, handler in self._previous.items():
            signal.signal(name, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for name in self._previous.keys() & set(STOPPING):
            # Not by a handler of Python's, which would have to wait for the operation under way.
            signal.signal(name, signal.SIG_DFL)
        if self._waiting and self._breakable:
            raise _StopWaiting

    def _hold_back_dead_workers(self) -> None:
        """Let the death of a data worker raise only while waiting for data.

        A DataLoader raises it from a signal handler, which may come in the middle of a step. It
        puts the handler there when it starts its processes, which is in the first wait.
        """
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and signal.SIGCHLD not in self._previous:
            self._previous[signal.SIGCHLD] = handler
            signal.signal(signal.SIGCHLD, self._note_death)

    def _note_death(self, number: int, frame: FrameType | None) -> None:
        self._death = (number, frame)
        if self._waiting:
            self._tell_death()

    def _tell_death(self) -> None:
        if self._death is not None:
            death, self._death = self._death, None
            self._previous[signal.SIGCHLD](*death)

    def came_within(self, seconds: float) -> bool:
        """Whether a signal has come, or comes in so many seconds."""
        end = time.monotonic() + seconds
        while self.received is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.received is not None

    def wait_for(self, produce: Callable[[], T], *, breakable: bool = True) -> T | None:
        """What `produce` returns, or None if it is `breakable` and a signal came before it did.

        The death of a data worker raises here, also if it came since the last wait.
        """
        try:
            return self._wait(produce, breakable)
        except _StopWaiting:
            return None

    def _wait(self, produce: Callable[[], T], breakable: bool) -> T | None:
        if breakable and self.received is not None:
            return None
        self._waiting, self._breakable = True, breakable
        try:
            self._tell_death()
            return produce()
        finally:
            self._waiting = False
            self._hold_back_dead_workers()


@contextmanager
def noted() -> Iterator[Interrupts]:
    """Note signals while training runs."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        yield interrupts
    finally:
        interrupts.uninstall()
