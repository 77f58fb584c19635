"""A training step the originals' way and ours: `python -m benchmarks.training_step`.

For every host with and without layout refinement: seconds of a step and the memory that it needs
beyond the networks, on the machine at hand. Images and captions are random, the networks the same.

What the originals' code has in common, and is done in its way here: float32; DAMSM's words loss one
caption after the other; gradients for the discriminators in the generator's step too; optimisers
and moving average one tensor after the other; every loss fetched to be printed. ALR-GAN has no
published code, so there is no original of a refined step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

from baselines import losses
from baselines.cli import Parser, run_command
from baselines.config import Config
from baselines.errors import UserError
from baselines.files import write_text
from baselines.metrics.report import markdown, significant
from baselines.training.distributed import World, pick_device
from baselines.training.hardware import resolved_amp
from baselines.training.objective import GANObjective
from baselines.trial import FIRST_STEP, random_batch, step_sizes, trial_step
from benchmarks import upstream
from benchmarks.efficiency import (
    REFINEMENT,
    build,
    configuration,
    forget_peak,
    machine,
    resident_peak,
    timed,
)
from benchmarks.options import at_least

HOSTS = "attngan,dmgan,stackgan,mirrorgan,dfgan"
ORIGINAL, OURS = "the originals' way", "ours"


@dataclass(frozen=True)
class Case:
    """One way of training one host. `amp`: as `optim.amp`; `refine`: as `--refine`."""

    host: str
    way: str
    refine: str
    amp: str
    preset: str
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For the table."""
        refined = " + ALR + LVR" if self.refine else ""
        return f"{self.way}{refined}, {'float32' if self.amp == 'no' else self.amp}"

    @property
    def config(self) -> Config:
        """The settings of the run."""
        chosen = (*self.settings, f"optim.amp={self.amp}", "optim.accumulate=1")
        return configuration(self.host, self.preset, self.refine, chosen)


def cases(host: str, preset: str, amp: str, settings: Sequence[str]) -> Iterator[Case]:
    """All ways of one host; `amp` is the half precision of this machine, "no" for none."""
    given = tuple(settings)
    yield Case(host, ORIGINAL, "", "no", preset, given)
    for arithmetic in dict.fromkeys(("no", amp)):
        for refine in ("", REFINEMENT):
            yield Case(host, OURS, refine, arithmetic, preset, given)


def original_step(
    objective: GANObjective, config: Config, world: World, *, vocabulary: int
) -> Callable[[int], None]:
    """As `trial_step`, in the ways that the originals share: the same numbers at another price."""
    _, rows, size = step_sizes(config, "train")
    batch = random_batch(config, world, vocabulary=vocabulary, size=size, rows=rows)
    for phase in objective.phases:
        for group in phase.optimizer.param_groups:
            group["foreach"] = False
    average = dict(objective.average.network.named_parameters())

    def step(number: int) -> None:
        with mock.patch.object(losses, "word_scores", upstream.word_scores):
            shared = objective.begin(batch, FIRST_STEP + number)
            for phase in objective.phases:
                phase.optimizer.zero_grad()
                loss = phase.loss(shared)
                loss.total.backward()
                phase.optimizer.step()
                for term in loss.logged(phase.name):
                    float(term.value)
        with torch.no_grad():
            for name, parameter in objective.net.named_parameters():
                average[name].mul_(0.999).add_(parameter, alpha=0.001)

    return step


def measure(case: Case, device: str, steps: int) -> tuple[float, int]:
    """(seconds of a step, bytes at its peak beyond what there was before the first)."""
    world = World(device=pick_device(device))
    objective = build(case.config, world)
    way = original_step if case.way == ORIGINAL else trial_step
    words = objective.text_encoder.vocabulary_size
    step = way(objective, case.config, world, vocabulary=words)
    before = in_use(world.device)
    seconds, peak = timed(step, steps, world.device)
    return seconds, max(0, (peak or 0) - before)


def in_use(device: torch.device) -> int:
    """Bytes of tensors on a GPU, of the process on a CPU.

    Raises:
        UserError: a CPU whose system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    forget_peak()
    found = resident_peak()
    if found is None:
        raise UserError("--device cpu: the memory of a process is read from /proc; run it on Linux")
    return found


def apart(case: Case, device: str, steps: int) -> tuple[float, int]:
    """`measure` in a process of its own, whose peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (case, device, steps))


def measure_host(ways: Sequence[Case], device: str, steps: int, turns: int) -> list[dict[str, Any]]:
    """Measure all ways of a host in alternating turns; the median time and the highest peak."""
    found = [[apart(case, device, steps) for case in ways] for _ in range(turns)]
    return [
        {
            **asdict(case),
            "name": case.name,
            "step_seconds": median(seconds for seconds, _ in of_case),
            "bytes": max(peak for _, peak in of_case),
        }
        for case, of_case in zip(ways, zip(*found, strict=True), strict=True)
    ]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Lay the results out as a Markdown table."""
    lines = [["host", "step", "s", "original ÷ this", "GiB beyond the networks"]]
    original = 0.0
    for found in results:
        seconds = found["step_seconds"]
        original = seconds if found["way"] == ORIGINAL else original
        lines.append(
            [
                found["host"],
                found["name"],
                significant(seconds),
                "–" if found["refine"] else f"{significant(original / seconds)}",
                significant(found["bytes"] / 2**30),
            ]
        )
    return "\n".join(markdown(lines))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.training_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", help="default: cub on a GPU, demo on a CPU")
    parser.add_argument("--hosts", default=HOSTS)
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE")
    parser.add_argument("--steps", type=at_least(1), default=8, help="timed steps of each turn")
    parser.add_argument(
        "--turns", type=at_least(1), default=3, help="how often each way comes round"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    device = pick_device(args.device)
    preset = args.preset or ("cub" if device.type == "cuda" else "demo")
    amp = resolved_amp("auto", device)
    results: list[dict[str, Any]] = []
    for host in args.hosts.split(","):
        ways = list(cases(host, preset, amp, args.set))
        results += measure_host(ways, str(device), args.steps, args.turns)
    facts = {"preset": preset, "settings": args.set, **machine(device)}
    print(table(results))
    where = f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}"
    print(f"\nPreset {preset}, {args.turns} turns of {args.steps} steps, {where}.")
    if args.out is not None:
        write_text(args.out, json.dumps({**facts, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
