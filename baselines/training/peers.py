"""What the ranks of a job know of one another: the same start, who fails, who has gone silent.

Gradients travel through the process group; this goes through the key-value store at which the
ranks have met, from threads of its own, so that it works while the process group waits for ever.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist

from baselines.console import say
from baselines.errors import UserError
from baselines.files import is_alive

INTERVAL = 1.0  # seconds between signs of life
SILENT = 20.0  # without one for so long a rank is dead or frozen; a launcher needs its time as well
STUCK = 45.0  # reading one batch or computing one step for so long is to hang ...
SLOWEST = 10.0  # ... unless it has taken a tenth of that before
FIRST = 600.0  # the first batch and the first step may compile, download, fill caches
GRACE = 8.0  # for the main thread to end by itself after another rank has failed
STATUS = 2


class RankError(UserError):
    """A rank is dead, frozen or different; the message names it."""


class Peers:
    """This rank's view of the others.

    Args:
        connect: makes a new connection to the job's store, for the use of one thread.
        rank: of this process.
        size: how many there are.
        end: what ends this process, from any thread.
    """

    def __init__(
        self,
        connect: Callable[[], dist.Store],
        rank: int,
        size: int,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.rank, self.size, self._end = rank, size, end
        self._store, self._connect = connect(), connect
        self._place, self._since = "", time.monotonic()
        self._longest: dict[str, float] = {}
        self._asked: float | None = None
        self._seen: dict[int, tuple[Any, float]] = {}
        self._names: dict[int, str] = {}
        self._told: float | None = None
        self._closed = threading.Event()
        self._store.set(f"who/{rank}", f"process {os.getpid()} on {socket.gethostname()}")
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Compare `facts` with those of the first rank.

        Raises:
            RankError: naming every rank and fact that differ; the same on all ranks.
        """
        number = self._store.add(f"compared/{self.rank}", 1)
        self._store.set(f"facts/{number}/{self.rank}", json.dumps(facts, sort_keys=True))
        everyone = [
            json.loads(self._store.get(f"facts/{number}/{rank}")) for rank in range(self.size)
        ]
        different = [
            f"{name}: {theirs.get(name)} on {self.name(rank)}, {everyone[0].get(name)} on rank 0"
            for rank, theirs in enumerate(everyone)
            for name in sorted(everyone[0].keys() | theirs.keys())
            if theirs.get(name) != everyone[0].get(name)
        ]
        if different:
            more = f"; and {len(different) - 8} more" if len(different) > 8 else ""
            raise RankError(
                "the ranks do not train the same; start all of them with the same command, data "
                "and code: " + "; ".join(different[:8]) + more
            )

    def name(self, rank: int) -> str:
        """A rank for people: number, and process and machine where they are known."""
        who = self._names.get(rank)
        return f"rank {rank} ({who})" if who else f"rank {rank}"

    def at(self, place: str) -> None:
        """Say what the main thread does from now on: "data", "step", "wait" or anything else."""
        now = time.monotonic()
        if self._place in ("data", "step"):
            took = now - self._since
            self._longest[self._place] = max(took, self._longest.get(self._place, 0.0))
        self._place, self._since = place, now

    def claim(self, store: dist.Store | None = None) -> bool:
        """Whether this rank is the first to fail, whose message is the job's."""
        return (store or self._store).add("failed", 1) == 1

    def failed_elsewhere(self) -> bool:
        """Whether another rank has failed and told."""
        try:
            return self._told is not None or self._store.add("failed", 0) > 0
        except (RuntimeError, dist.DistError):
            return False  # the store has ended with whoever kept it

    def verdict(self) -> str:
        """Who is dead, after a collective operation has failed; waits until that is known.

        "" if another rank has told already.
        """
        end = time.monotonic() + SILENT + 5 * INTERVAL
        while time.monotonic() < end:
            if self.failed_elsewhere():
                return ""
            found = self._silent()
            if found:
                return found
            time.sleep(0.1)
        return "the ranks lost one another and all are alive: look at the network between them"

    def close(self) -> None:
        """Say good-bye, so that the end of this process is not taken for death."""
        self.stop()
        self._store.set(f"done/{self.rank}", "")

    def stop(self) -> None:
        """End the threads: one that still speaks to the store would crash Python's own end."""
        self._closed.set()
        for thread in self._threads:
            thread.join(SILENT)

    def _beat(self) -> None:
        store = self._connect()
        count = 0
        for rank in range(self.size):
            self._names[rank] = store.get(f"who/{rank}").decode()
        while not self._closed.is_set():
            count += 1
            self._asked = time.monotonic()
            try:
                store.set(f"beat/{self.rank}", str(count))
                for rank in range(self.size):
                    key = f"beat/{rank}"
                    if rank != self.rank and store.check([key]):
                        gone = store.check([f"done/{rank}"])
                        self._notice(rank, "done" if gone else store.get(key))
                if store.add("failed", 0) > 0 and self._told is None:
                    self._told = time.monotonic()
            except (RuntimeError, dist.DistError):
                # The store has ended with whoever kept it; `_watch` sees that nothing is answered.
                return
            self._asked = None
            self._closed.wait(INTERVAL)

    def _notice(self, rank: int, beat: Any) -> None:
        if rank not in self._seen or self._seen[rank][0] != beat:
            self._seen[rank] = (beat, time.monotonic())

    def _silent(self) -> str:
        """Who has died or frozen; "" if nobody."""
        now = time.monotonic()
        for rank, (beat, since) in list(self._seen.items()):
            if beat == "done":
                continue
            who = self._names[rank]
            process, _, host = who.removeprefix("process ").partition(" on ")
            if host == socket.gethostname() and not is_alive(int(process)):
                return f"{self.name(rank)} has died"
            if now - since > SILENT:
                return (
                    f"{self.name(rank)} has given no sign of life for {now - since:.0f} s: dead, "
                    "frozen or cut off"
                )
        return ""

    def _stuck(self) -> str:
        """Why this rank's own main thread hangs; "" if it does not."""
        place, seconds = self._place, time.monotonic() - self._since
        if place not in ("data", "step"):
            return ""
        longest = self._longest.get(place)
        limit = FIRST if longest is None else max(STUCK, SLOWEST * longest)
        what = "reading the next batch" if place == "data" else "one step"
        return f"{self.name(self.rank)} hangs in {what} for {seconds:.0f} s" * (seconds > limit)

    def _watch(self) -> None:
        store = self._connect()  # another one may be waiting for an answer
        while not self._closed.wait(INTERVAL):
            asked = self._asked
            if asked is not None and time.monotonic() - asked > SILENT:
                # Whoever keeps the store is frozen or gone: nothing can be agreed any more.
                self._finish(f"rank {self.rank}: the process where the ranks meet does not answer")
            elif self._told is not None:
                if time.monotonic() - self._told > GRACE:
                    self._end(STATUS)
            elif reason := self._silent() or self._stuck():
                if self._may_speak(store):
                    self._finish(reason)
                self._told = time.monotonic()

    def _may_speak(self, store: dist.Store) -> bool:
        """`claim`, or yes where the store does not answer because its keeper is frozen."""
        answers: list[bool] = []
        asking = threading.Thread(target=lambda: answers.append(self.claim(store)), daemon=True)
        asking.start()
        asking.join(5 * INTERVAL)
        return answers[0] if answers else True

    def _finish(self, reason: str) -> None:
        say(f"error: {reason}; the last checkpoint is intact, start again to go on from it")
        linger()
        self._closed.set()
        self._end(STATUS)


def linger() -> None:
    """Stay until the others have learnt who failed: the store may end with this process."""
    time.sleep(3 * INTERVAL)
