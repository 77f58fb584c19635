"""Measures a generator while it trains, without touching the training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from baselines.errors import UserError
from baselines.metrics.evaluation import TRAINED, Options, choose, drawn_sets, prepare, real_sets
from baselines.metrics.measuring import measure
from baselines.runs import Run
from baselines.training.checkpoint import read_description, save_weights

BEST = "best.safetensors"
PREFIX = "evaluation"
QUICK = ("graded", "r_precision", "fid")


class TrainingEvaluation:
    """Measures the averaged generator every so often; what a training hook calls.

    All randomness is drawn from generators of its own, and modes and random states are put back,
    so that the training is the same to the bit with and without it. Real images are measured once.

    Args:
        run: with the averaged network as generator; the networks may go on changing.
        options: what to measure; a few hundred images are enough for a curve.
        best: the row whose best weights are kept as `best.safetensors` in the run directory; ""
            keeps none. The best so far is read back when a run goes on.

    Raises:
        UserError: a metric that cannot be had here, or a `best` that says not which end is better.
    """

    def __init__(self, run: Run, options: Options, *, best: str = "") -> None:
        self.run, self.options, self.best = run, options, best
        self.device = next(run.generator.parameters()).device
        with self._undisturbed():
            self.context, self.protocol = prepare(run, options, self.device)
            self.specs, _ = choose(options.metrics, self.context)
            if best:
                self.better = self._better(best)
            sets = real_sets(run, self.context, self.protocol, self.specs, options, self.device)
            self.real = measure(sets, self.context, self.specs)

    def __call__(self, step: int, images: int) -> dict[str, float]:
        """Measure now; returns the values for the log as `evaluation/ROW`."""
        with self._undisturbed():
            sets = drawn_sets(
                {TRAINED: self.run}, self.context, self.protocol, self.specs, self.options,
                self.device,
            )  # fmt: skip
            results = measure(sets, self.context, self.specs, quiet=True)
        found = {row: scores[TRAINED]["value"] for row, scores in results.items()}
        known = {row: value for row, value in found.items() if value is not None}
        if self.best:
            if self.best not in known:
                raise UserError(
                    f"no row {self.best!r} to keep the best by; there are {', '.join(known)}"
                )
            self._keep(known[self.best], step, images)
        return {f"{PREFIX}/{row}": value for row, value in known.items()}

    def _better(self, row: str) -> str:
        name = row.split("/")[0]
        if name not in self.specs or not self.specs[name].better:
            able = ", ".join(n for n, spec in self.specs.items() if spec.better)
            raise UserError(f"{row!r} cannot say what is best; use a row of {able}")
        return self.specs[name].better

    def _keep(self, value: float, step: int, images: int) -> None:
        path = self.run.directory / BEST
        before = best_so_far(path, self.best)
        sign = 1 if self.better == "higher" else -1
        if not math.isfinite(before) or sign * value > sign * before:
            facts = {"row": self.best, "value": value, "step": step, "images": images}
            save_weights(self.run.generator, path, **facts)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Eval mode and no gradients inside; modes and random states as before afterwards."""
        networks = (self.run.generator, self.run.encoders.text, self.run.encoders.image)
        modes = [(m, m.training) for network in networks for m in network.modules()]
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), torch.inference_mode():
                for network in networks:
                    nn.Module.eval(network)
                yield
        finally:
            for module, training in modes:
                module.training = training


def best_so_far(path: Path, row: str) -> float:
    """Read the value that the kept weights had; NaN where none were kept, or by another row."""
    if not path.is_file():
        return math.nan
    facts = read_description(path)
    return float(facts["value"]) if facts.get("row") == row else math.nan
