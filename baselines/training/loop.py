"""The only training loop. What a model is lies in its objective; read this from top to bottom."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parameter import Parameter

from baselines.config import Config, to_dict
from baselines.data.loader import Batch
from baselines.training.checkpoint import rng_state, save_checkpoint, set_rng_state
from baselines.training.distributed import World, any_rank, average_gradients
from baselines.training.recorder import Hook, Progress, Recorder
from baselines.training.terms import PhaseLoss, Term


@dataclass(frozen=True)
class Phase:
    """One optimiser's part of a step.

    `loss(step)` returns the total that is back-propagated and the terms that are logged as
    `name/term`. Only this phase's parameters require gradients while it runs.
    """

    name: str
    optimizer: torch.optim.Optimizer
    loss: Callable[[Any], PhaseLoss]
    clip: float = 0.0
    clipped: Sequence[Parameter] = ()

    @property
    def parameters(self) -> list[Parameter]:
        """Everything the optimiser moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Objective(Protocol):
    """What a training run optimises, and everything of it that a checkpoint must hold."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Everything with a state, by its name in the checkpoint."""

    @property
    def phases(self) -> Sequence[Phase]:
        """The parts of a step, in order."""

    def begin(self, batch: Batch, number: int) -> Any:
        """What all phases of step `number` share, such as the one generator pass."""

    def after(self, number: int) -> None:
        """Called when every phase has stepped: averaging, schedules."""


def capture(objective: Objective, scaler: torch.amp.GradScaler, progress: Progress) -> dict:
    """The complete training state: networks, optimisers, counters, every random generator."""
    return {
        "networks": {name: net.state_dict() for name, net in objective.networks.items()},
        "optimizers": {phase.name: phase.optimizer.state_dict() for phase in objective.phases},
        "scaler": scaler.state_dict(),
        "progress": {"step": progress.step, "images": progress.images},
        "rng": rng_state(),
    }


def restore(state: Mapping[str, Any], objective: Objective, scaler: torch.amp.GradScaler) -> None:
    """Put back what `capture` returned."""
    for name, net in objective.networks.items():
        net.load_state_dict(state["networks"][name])
    for phase in objective.phases:
        phase.optimizer.load_state_dict(state["optimizers"][phase.name])
    scaler.load_state_dict(state["scaler"])
    set_rng_state(state["rng"])


def train(
    objective: Objective,
    batches: Callable[[int], Iterable[Batch]],
    config: Config,
    run_dir: Path,
    world: World,
    *,
    total_images: int,
    batch_size: int,
    hooks: Sequence[Hook] = (),
    saved: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Progress:
    """Train until `total_images` images have been seen, or a signal asks to stop.

    Args:
        objective: the networks, their optimisers and losses.
        batches: given the number of images already seen, the batches from there on.
        config: saved in every checkpoint; `config.run` says how often to log and to save.
        run_dir: where checkpoints and `stats.jsonl` go.
        world: this process's rank and device.
        total_images: length of the training in images, over all ranks.
        batch_size: images of one step on this rank.
        hooks: done at their intervals and at the end.
        saved: a checkpoint to go on from.
        extra: further entries for every checkpoint (vocabulary, presets).

    Raises:
        NonFiniteError: a loss term is NaN or infinite; the last checkpoint stays as it is.
    """
    fp16 = config.optim.amp == "fp16"
    scaler = torch.amp.GradScaler(world.device.type, enabled=fp16)
    progress = Progress()
    if saved is not None:
        restore(saved, objective, scaler)
        progress = Progress(**saved["progress"])

    def save(progress: Progress) -> None:
        state = capture(objective, scaler, progress)
        state |= {"config": to_dict(config), **(extra or {})}
        save_checkpoint(run_dir, progress.images, state, config.run.keep)

    recorder = Recorder(config, run_dir, world, hooks, save, progress, total_images)
    with stop_requested() as stop:
        for batch in batches(progress.images):
            if progress.images >= total_images:
                break
            number = progress.step + 1
            step = objective.begin(batch.to(world.device), number)
            for phase in objective.phases:
                recorder.add(number, run_phase(phase, objective.phases, step, scaler, world))
            scaler.update()
            objective.after(number)
            progress = Progress(number, progress.images + batch_size * world.size)
            stopping = agreed(stop(), number, config, world)
            recorder.step_done(progress, last=stopping or progress.images >= total_images)
            if stopping:
                break
    recorder.close()
    return progress


def agreed(stop: bool, number: int, config: Config, world: World) -> bool:
    """Whether all ranks stop now: a signal may reach them at different steps."""
    if world.size == 1:
        return stop
    return number % config.run.log_every == 0 and any_rank(stop, world)


def run_phase(
    phase: Phase,
    phases: Sequence[Phase],
    step: Any,
    scaler: torch.amp.GradScaler,
    world: World,
) -> list[Term]:
    """One optimiser's step: loss, backward, gradients averaged over ranks, update."""
    for other in phases:
        for parameter in other.parameters:
            parameter.requires_grad_(other is phase)
    phase.optimizer.zero_grad(set_to_none=True)
    loss = phase.loss(step)
    scaler.scale(loss.total).backward()
    for other in phases:
        for parameter in other.parameters:
            parameter.requires_grad_(True)
    average_gradients(phase.parameters, world)
    scaler.unscale_(phase.optimizer)
    if phase.clip:
        nn.utils.clip_grad_norm_(phase.clipped, phase.clip)
    gradients = [p.grad for p in phase.parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    scaler.step(phase.optimizer)
    logged = loss.logged(phase.name)
    if not scaler.is_enabled():  # under fp16 an overflowing gradient is ordinary: a skipped step
        logged.append(Term(f"{phase.name}/gradient_norm", norm, None, "gradient norms"))
    return logged


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came; the step under way is finished."""
    received: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM)
    previous = {name: signal.getsignal(name) for name in names}

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        for name in names:
            signal.signal(name, note)
        yield lambda: bool(received)
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
