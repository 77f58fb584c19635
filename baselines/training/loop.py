"""The only training loop. What a model is lies in its objective; read this from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parameter import Parameter

from baselines.config import Config, to_dict
from baselines.data.loader import Batch
from baselines.data.workers import dead_process
from baselines.training.checkpoint import (
    CheckpointError,
    NonFiniteError,
    require_finite,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from baselines.training.distributed import Vote, World, average_gradients
from baselines.training.interrupts import Interrupts, noted
from baselines.training.recorder import Hook, Progress, Recorder
from baselines.training.stats import not_finite
from baselines.training.terms import PhaseLoss, Term, mean_terms


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

    def begin(self, batch: Batch, number: int, part: int = 0) -> Any:
        """What all phases of step `number` share, such as the one generator pass.

        With accumulated gradients a step has several batches, numbered by `part`, and this is
        called for each of them in every phase: the same call must give the same again.
        """

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


def restore(
    state: Mapping[str, Any], objective: Objective, scaler: torch.amp.GradScaler
) -> Progress:
    """Put back what `capture` returned.

    Raises:
        CheckpointError: a part is missing, or does not fit the objective.
        NonFiniteError: a weight is NaN or infinite, which earlier versions could save.
    """
    try:
        for name, net in objective.networks.items():
            net.load_state_dict(state["networks"][name])
        for phase in objective.phases:
            phase.optimizer.load_state_dict(state["optimizers"][phase.name])
        scaler.load_state_dict(state["scaler"])
        set_rng_state(state["rng"])
        progress = Progress(int(state["progress"]["step"]), int(state["progress"]["images"]))
        if min(progress.step, progress.images) < 0:
            raise ValueError(f"{progress} is before the start")
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit this run ({' '.join(str(error).split())[:300]}); "
            "--resume previous takes the one before it"
        ) from error
    try:
        require_finite(state)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"the checkpoint after step {progress.step} holds values that are not finite: {error}; "
            "--resume previous takes the one before it"
        ) from error
    return progress


def require_saveable(
    objective: Objective, scaler: torch.amp.GradScaler, progress: Progress
) -> None:
    """Refuse to save a state with NaN or infinity.

    Raises:
        NonFiniteError: naming the step and what is not finite.
    """
    try:
        require_finite(capture(objective, scaler, progress))
    except NonFiniteError as error:
        raise not_finite(progress.step, str(error)) from error


def saver(
    objective: Objective,
    scaler: torch.amp.GradScaler,
    run_dir: Path,
    config: Config,
    entries: Mapping[str, Any],
) -> Callable[[Progress], None]:
    """What writes a checkpoint: the training state, the configuration and further `entries`."""

    def save(progress: Progress) -> None:
        state = {**capture(objective, scaler, progress), "config": to_dict(config), **entries}
        save_checkpoint(run_dir, progress.images, state, config.run.keep)

    return save


def train(
    objective: Objective,
    batches: Callable[[int], Iterable[Batch]],
    config: Config,
    run_dir: Path,
    world: World,
    *,
    total_images: int,
    batch_size: int,
    accumulate: int = 1,
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
        batch_size: images of one batch on this rank.
        accumulate: batches whose gradients make one step.
        hooks: done at their intervals and at the end.
        saved: a checkpoint to go on from.
        extra: further entries for every checkpoint (vocabulary, presets).

    Raises:
        NonFiniteError: a loss term or weight is NaN or infinite; the last checkpoint stays.
        UserError: the data cannot be read on; the state after the last step is saved.
    """
    scaler = torch.amp.GradScaler(world.device.type, enabled=config.optim.amp == "fp16")
    progress = Progress() if saved is None else restore(saved, objective, scaler)
    step_images = batch_size * accumulate * world.size
    save = saver(objective, scaler, run_dir, config, {"batch": step_images, **(extra or {})})
    check = partial(require_saveable, objective, scaler)
    recorder = Recorder(config, run_dir, world, hooks, check, save, progress, total_images)
    with noted() as interrupts, recorder:
        vote, stream = Vote(world), iter(batches(progress.images))
        while progress.images < total_images:
            world.at("data")
            parts = next_batches(stream, accumulate, interrupts, recorder, world)
            if len(parts) < accumulate:
                break
            world.at("step")
            number = progress.step + 1
            run_step(objective, parts, number, scaler, world, recorder.add)
            progress = Progress(number, progress.images + step_images)
            stopping = vote(interrupts.received is not None)
            world.at("records")
            done = progress.images >= total_images
            recorder.step_done(progress, last=stopping or done, hurry=stopping)
            if stopping:
                break
        vote.close()
    return progress


def next_batches(
    stream: Iterator[Batch],
    accumulate: int,
    interrupts: Interrupts,
    recorder: Recorder,
    world: World,
) -> list[Batch]:
    """The batches of the next step; fewer where the data end or a signal breaks the wait.

    Raises:
        UserError: the data cannot be read on; what has been trained is saved first.
    """

    def read() -> list[Batch]:
        return [batch for _, batch in zip(range(accumulate), stream, strict=False)]

    try:
        # Other ranks are about to wait for this one: it may not leave the step to them.
        return interrupts.wait_for(read, breakable=world.size == 1) or []
    except Exception as error:
        explained = dead_process(error)
        dead = explained or isinstance(error.__cause__, RuntimeError | OSError | EOFError)
        if dead and interrupts.came_within(1.0):
            # A job that is cancelled signals every process: the workers were only the first.
            return []
        recorder.rescue()
        if explained is None:
            raise
        raise explained from error


def run_step(
    objective: Objective,
    parts: Sequence[Batch],
    number: int,
    scaler: torch.amp.GradScaler,
    world: World,
    record: Callable[[int, Sequence[Term]], None],
) -> None:
    """All phases of one step, over one batch or over several whose gradients add up.

    `record` is given the number of the step and the terms of each phase.
    """
    moved = [batch.to(world.device) for batch in parts]
    shared = [objective.begin(moved[0], number)] if len(parts) == 1 else None
    for phase in objective.phases:
        # Begun anew for every phase, several batches take the memory of one.
        steps = shared or (objective.begin(b, number, i) for i, b in enumerate(moved))
        record(number, run_phase(phase, objective.phases, steps, scaler, world, parts=len(parts)))
    scaler.update()
    objective.after(number)


def run_phase(
    phase: Phase,
    phases: Sequence[Phase],
    steps: Iterable[Any],
    scaler: torch.amp.GradScaler,
    world: World,
    *,
    parts: int = 1,
) -> list[Term]:
    """One optimiser's step: loss, backward, gradients averaged over parts and ranks, update."""
    for other in phases:
        for parameter in other.parameters:
            parameter.requires_grad_(other is phase)
    phase.optimizer.zero_grad(set_to_none=True)
    logged: list[list[Term]] = []
    for step in steps:
        loss = phase.loss(step)
        scaler.scale(loss.total if parts == 1 else loss.total / parts).backward()
        logged.append(loss.logged(phase.name))
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
    terms = mean_terms(logged)
    if not scaler.is_enabled():  # under fp16 an overflowing gradient is ordinary: a skipped step
        terms.append(Term(f"{phase.name}/gradient_norm", norm, None, "gradient norms"))
    return terms
