"""What a run says of itself: means kept on the device, one JSON line an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import files
from baselines.json_lines import append_line, read_lines, write_lines
from baselines.training.checkpoint import NonFiniteError
from baselines.training.trackers import Tracker

PANELS = "panels.json"


def not_finite(step: int, names: str) -> NonFiniteError:
    """The error for what is NaN or infinite at or after `step`; nothing of it was saved."""
    return NonFiniteError(
        f"step {step}: {names} is not finite. Nothing was saved after it; the last checkpoint is "
        "intact. Lower optim.g_lr/d_lr or the term's weight, or use optim.amp=no, and start again "
        "from the same run directory."
    )


class Means:
    """Running means of named scalars, kept on their device so that adding never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._first_bad: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    @torch.no_grad()
    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Add one value of each name; always the same names together."""
        names = tuple(values)
        if not names:
            return
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if names not in self._sums:
            self._sums[names] = torch.zeros_like(stacked, dtype=torch.float64)
            self._first_bad[names] = torch.full_like(stacked, -1, dtype=torch.int64)
            self._counts[names] = 0
        self._sums[names] += stacked
        self._counts[names] += 1
        bad = self._first_bad[names]
        newly_bad = (bad < 0) & ~torch.isfinite(stacked)
        self._first_bad[names] = torch.where(newly_bad, step, bad)

    def check(self) -> None:
        """Raise for the earliest non-finite value added since the last `flush`.

        Raises:
            NonFiniteError: naming the term and the step.
        """
        found = [
            (step, name)
            for names, steps in self._first_bad.items()
            for name, step in zip(names, steps.tolist(), strict=True)
            if step >= 0
        ]
        if found:
            step = min(found)[0]
            terms = ", ".join(name for at, name in found if at == step)
            raise not_finite(step, terms)

    def flush(self) -> dict[str, float]:
        """The means since the last flush, checked to be finite."""
        self.check()
        means = {
            name: total / self._counts[names]
            for names, totals in self._sums.items()
            for name, total in zip(names, totals.tolist(), strict=True)
        }
        self._sums.clear()
        self._first_bad.clear()
        self._counts.clear()
        return means


class StatsWriter:
    """Appends to `stats.jsonl` and tells the trackers; resuming drops what came later."""

    def __init__(
        self, run_dir: Path, *, resume_step: int = 0, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.path = run_dir / "stats.jsonl"
        kept = [line for line in read_stats(self.path) if line["step"] <= resume_step]
        write_lines(self.path, kept)
        self._trackers = trackers
        self._panels: dict[str, str] = {}

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line: the step and `values`."""
        append_line(self.path, {"step": step, **values})
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(step, numbers)

    def describe(self, panels: Mapping[str, str]) -> None:
        """Keep beside the log which values are drawn together, by name, where that has changed."""
        if panels != self._panels:
            self._panels = dict(panels)
            files.write_json(self.path.with_name(PANELS), self._panels)

    def close(self) -> None:
        """Let the trackers write out what they keep back."""
        for tracker in self._trackers:
            tracker.close()


def read_stats(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a `stats.jsonl`; a last line cut short by a kill is passed over.

    Raises:
        UserError: another line is no log entry, or `path` no regular file; names it.
    """
    return read_lines(path, lambda entry: isinstance(entry["step"], int))


def read_panels(run_dir: Path) -> dict[str, str]:
    """Which values of the log are drawn together, by name; empty for runs of old."""
    path = run_dir / PANELS
    return files.read_json(path) if path.exists() else {}
