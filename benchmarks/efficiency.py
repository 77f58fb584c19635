"""What a host costs with and without refinement: `python -m benchmarks.efficiency --preset demo`.

Parameters of every network, seconds per training step, memory, seconds per drawn image, on the
machine at hand. Images and captions are random: no data set and no encoders are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from baselines import companions, train
from baselines.cli import Parser, run_command
from baselines.config import Config
from baselines.errors import UserError
from baselines.files import write_atomic
from baselines.hosts import HOSTS
from baselines.metrics.report import markdown, significant
from baselines.sampling.drawing import Inputs, draw
from baselines.training.distributed import World, pick_device
from baselines.training.objective import GANObjective
from baselines.trial import random_batch, step_sizes, trial_step, untrained_encoders
from benchmarks.options import at_least

REFINEMENT = "alr,lvr"
WARM = 2


@dataclass(frozen=True)
class Cost:
    """Of one host under one setting.

    parameters: of each network, in training; step_seconds: mean of one training step; peak_bytes:
    most during it, allocated on a GPU, else resident in the whole process, libraries included, and
    None where the system does not tell; image_seconds: of one image drawn in a batch.
    """

    name: str
    parameters: dict[str, int]
    step_seconds: float
    peak_bytes: int | None
    image_seconds: float
    batch_size: int
    steps: int


def configuration(model: str, preset: str, refine: str, settings: Sequence[str]) -> Config:
    """Resolve a preset as the training command does."""
    options = [model, "--preset", preset, "--run-dir", "unused", "--refine", refine or "none"]
    for setting in settings:
        # What refinement reads is refused where there is none.
        if refine or not setting.startswith("refine."):
            options += ["--set", setting]
    return train.configure(train.parse(options))


def build(config: Config, world: World) -> GANObjective:
    """Build a host with untrained encoders, and an untrained network that its losses read."""
    encoders = untrained_encoders(config)
    config = replace(config, encoder=encoders.config)
    companion = companions.of(config)
    if companion is None:
        return train.build_objective(config, encoders, world)
    with TemporaryDirectory() as folder:
        file = Path(folder) / companion.file
        companion.untrained(config, encoders.vocabulary, file)
        return train.build_objective(config, encoders, world, file)


def cost(name: str, config: Config, world: World, steps: int) -> Cost:
    """Train `steps` steps on one batch and draw it as often."""
    objective = build(config, world)
    words = objective.text_encoder.vocabulary_size
    _, rows, size = step_sizes(config, "train")
    batch = random_batch(config, world, vocabulary=words, size=size, rows=rows)
    step = trial_step(objective, config, world, vocabulary=words)
    seconds, peak = timed(step, steps, world.device)
    text = objective.text_encoder(batch.captions, batch.lengths_cpu)
    widths = config.model.noise_dim, config.model.condition_dim
    noise, eps = (torch.randn(len(batch), width, device=world.device) for width in widths)
    inputs = Inputs(noise, eps, text.sentence, text.words, batch.lengths)
    objective.net.eval()
    with torch.inference_mode():
        drawing, _ = timed(
            lambda number: draw(objective.net, inputs, world.device),
            steps,
            world.device,
        )
    networks = {n: net for n, net in objective.networks.items() if n not in ("average", "balance")}
    networks |= {"text encoder": objective.text_encoder, "image encoder": objective.image_encoder}
    companion = companions.of(config)
    if companion is not None:
        networks[companion.option] = getattr(objective, companion.option)
    return Cost(
        name,
        {n: count for n, net in networks.items() if (count := parameters(net))},
        seconds,
        peak,
        drawing / len(batch),
        len(batch),
        steps,
    )


def timed(
    call: Callable[[int], object], repeats: int, device: torch.device
) -> tuple[float, int | None]:
    """Give the mean seconds of a call after warming up, and the most memory it took.

    A mean, not a median: what is done every so many steps is part of the price.

    Returns:
        seconds, and bytes as `Cost.peak_bytes` has them.
    """
    for number in range(WARM):
        call(number)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()
    start = time.perf_counter()
    for number in range(repeats):
        call(WARM + number)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / repeats
    return seconds, torch.cuda.max_memory_allocated(device) if cuda else resident_peak()


def forget_peak() -> None:
    """Let the most memory that the process ever had be what it has now, where Linux allows it."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int | None:
    """Give the most bytes that the process had in memory since `forget_peak`; None off Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def machine(device: torch.device) -> dict[str, Any]:
    """Say what times and memory depend on."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def parameters(network: nn.Module) -> int:
    """Count the elements of all parameters.

    >>> parameters(nn.Linear(3, 4))
    16
    """
    return sum(parameter.numel() for parameter in network.parameters())


def table(costs: Sequence[Cost]) -> str:
    """Lay the costs out as a Markdown table; millions of parameters, seconds, GiB."""
    networks = list(dict.fromkeys(name for found in costs for name in found.parameters))
    head = ["host", *(f"{name}, M" for name in networks), "s/step", "GiB", "s/image"]
    lines = [head]
    for found in costs:
        counts = (found.parameters.get(name) for name in networks)
        lines.append(
            [
                found.name,
                *("–" if n is None else significant(n / 1e6) for n in counts),
                significant(found.step_seconds),
                "–" if found.peak_bytes is None else significant(found.peak_bytes / 2**30),
                significant(found.image_seconds),
            ]
        )
    return "\n".join(markdown(lines))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m benchmarks.efficiency", description=__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument(
        "--hosts", help="some of them, with commas between; by default all that have the preset"
    )
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE")
    parser.add_argument("--steps", type=at_least(1), default=32, help="timed steps of each host")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    world = World(device=pick_device(args.device))
    # ALR-GAN is AttnGAN with the refinement that every host is measured with.
    able = [n for n, host in HOSTS.items() if args.preset in host.presets and n != "alrgan"]
    if not able:
        known = ", ".join(dict.fromkeys(p for host in HOSTS.values() for p in host.presets))
        raise UserError(f"--preset {args.preset}: no host has it; expected one of {known}")
    costs = []
    for model in args.hosts.split(",") if args.hosts else able:
        for refine, name in (("", model), (REFINEMENT, f"{model} + ALR + LVR")):
            config = configuration(model, args.preset, refine, args.set)
            costs.append(cost(name, config, world, args.steps))
    print(table(costs))
    facts = {"preset": args.preset, "settings": args.set, **machine(world.device)}
    where = f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}"
    memory = "allocated" if world.device.type == "cuda" else "resident in the whole process"
    print(
        f"\nPreset {args.preset}, batch {costs[0].batch_size}, {args.steps} steps, {where}; most "
        f"memory {memory} during a step."
    )
    if args.out is not None:
        content = {**facts, "costs": [asdict(found) for found in costs]}
        text = json.dumps(content, indent=2) + "\n"
        write_atomic(args.out, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    run_command(main)
