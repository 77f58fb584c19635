"""Weights that work on any host: TermBalance holds each term at a share of the host's gradient."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alr_layers import _checks
from alr_layers._gradients import norms_beside, obstacle, root_mean_square_over_ranks
from alr_layers._journal import Journal
from alr_layers._stages import (
    Anchors,
    Schedule,
    Stage,
    Terms,
    amount,
    labels_of,
    scalar,
    schedule,
    split,
)

# How much the newest measurement counts, at least, in the moving average of a scale.
RECENT = 0.25


class TermBalance(nn.Module):
    """Weigh added terms so that each has a chosen share of the host's gradient (our reading).

    No constant weight fits all hosts: at the features h the gradient of L_ALR is anything from a
    ten-millionth of that of the host's own loss to a multiple of it. As VQ-GAN weighs its
    adversarial term, a named term's scale is

        scale = share · ‖∂ host_loss / ∂h‖ / ‖∂ term / ∂h‖

    measured when the term first counts, after 1, 2, 4, ... further steps and then every `every`
    steps, and kept in between. What is averaged, over about the last four measurements, is the
    quotient of the gradients, so that a scale falls at once and rises slowly: twofold at most from
    one to the next, by a third at most from the fourth on. A term that is not named, or whose
    share is 0, keeps the scale 1.

    The cost: a step that measures runs one more backward pass of the host's loss, whatever the
    number of stages and anchors, and one of each named term, from the loss down to `at` (not
    through the layers below), and waits for the device. With every=16 that is one step in sixteen;
    between them a step costs nothing extra.

    A measurement is dropped, with one warning in the log of `alr_layers`, where a gradient is not
    finite or is zero (a term below 1e-12 of the host's counts as zero): the scale stays as it was,
    and a term never yet measured stays out. Scales are buffers, saved with `state_dict()`: save and
    load the balance with the networks. What is measured is logged in words (level INFO).

    Works with gradient accumulation (one measurement per `step`), GradScaler (losses are handed
    over unscaled; under float16 the measurement scales them itself), DDP (ranks agree on one
    scale), retained graphs and a host under `torch.compile`. Measuring retains the graph: where a
    compiled host forbids that, the error names the setting. Reentrant activation checkpointing is
    refused by torch itself: use `use_reentrant=False`.

    Args:
        start: the first step at which terms count. Before it their weight is 0: the host's loss is
            returned as it is, and no term is differentiated. A number holds for all terms, named or
            not; a mapping for those it names, {"alr": 1000}.
        ramp: over how many steps from `start` on the weight rises linearly from 0; likewise.
        every: steps between measurements.
        weights: constant factors by term, on top of scale and ramp; 1 for those it does not name.
        shares: by term, e.g. `TermBalance(alr=0.05, lvr=0.02)`.

    Example:
        >>> import torch
        >>> h = torch.ones(4, requires_grad=True)
        >>> balance = TermBalance(alr=0.05, start=10)
        >>> host, terms = h.sum(), {"alr": 1e-6 * h.sum()}
        >>> balance(host, terms, at=h, step=0) is host
        True
        >>> loss = balance(host, terms, at=h, step=10)
        >>> torch.autograd.grad(loss, h)[0]
        tensor([1.0500, 1.0500, 1.0500, 1.0500])
    """

    measured: Tensor

    def __init__(
        self,
        *,
        start: Schedule = 0,
        ramp: Schedule = 0,
        every: int = 16,
        weights: Mapping[str, float] | None = None,
        **shares: float,
    ) -> None:
        super().__init__()
        self.shares = {name: amount(f"share of {name}", share) for name, share in shares.items()}
        self.start, self.ramp = schedule("start", start), schedule("ramp", ramp)
        self.every = _checks.count("every", every)
        self.weights = {
            name: amount(f"weight of {name}", weight) for name, weight in (weights or {}).items()
        }
        for name in self.shares:
            if hasattr(self, name):
                raise ValueError(f"a term cannot be called {name!r}, a name of torch.nn.Module")
            self.register_buffer(name, self._unmeasured(name, 1))
        # By share: the step of the last measurement (-1: none yet), and how many there were.
        self.register_buffer("measured", self._never())
        # The same, known without asking the device, which may be "meta".
        self._record = dict.fromkeys(self.shares, (-1, 0))
        self._shapes: tuple[int, list[torch.Size]] | None = None
        self._labels, self._step = [""], 0
        self._journal = Journal()

    def _never(self) -> Tensor:
        return torch.tensor([-1, 0]).repeat(len(self.shares), 1)

    def _read_record(self) -> dict[str, tuple[int, int]]:
        rows = self.measured.tolist()
        return {
            name: (int(row[0]), int(row[1])) for name, row in zip(self.shares, rows, strict=True)
        }

    def _unmeasured(self, name: str, stages: int) -> Tensor:
        """Scales before the first measurement: until then a shared term does not count at all."""
        return torch.full((stages,), 0.0 if self.shares[name] else 1.0)

    def weight(self, name: str, step: int) -> float:
        """The weight of a term at `step` (counted from 0) before scaling: start, ramp, factor."""
        start, ramp = (
            value if isinstance(value, int) else value.get(name, 0)
            for value in (self.start, self.ramp)
        )
        if step < start:
            return 0.0
        risen = min(1.0, (step - start + 1) / ramp) if ramp else 1.0
        return risen * self.weights.get(name, 1.0)

    def forward(
        self,
        host_loss: Tensor,
        terms: Terms | Sequence[Terms],
        *,
        at: Tensor | Sequence[Tensor],
        step: int,
        anchors: Anchors | Sequence[Anchors] | None = None,
    ) -> Tensor:
        """The loss to differentiate: host_loss + Σ weight(step) · scale · term.

        Args:
            host_loss: the host's whole loss, a scalar that has not been differentiated yet.
            terms: unweighted scalars by name, as `LayoutRefinement` returns them; or a sequence of
                such mappings, one per refined stage.
            at: h, the features that the refinement was given (or a list of tensors, compared
                together); with a sequence of mappings one tensor per mapping. Where the host hands
                out copies (DataParallel, a compiled generator), a weight of the layer that makes h.
            step: the number of this step of the generator, counted from 0.
            anchors: for terms that do not reach h (reconstruction does not) a tensor that both they
                and the host reach, such as a weight of the image head: {"reconstruction": weight}.
                With a sequence of mappings, one mapping per stage or one for all.

        Returns:
            A scalar; `host_loss` itself where no term counts.

        Raises:
            ValueError: a gradient does not reach `at`, sizes of the lists differ, a share names a
                term that is not there, or one balance is used for two stages in turn.
            TypeError: a loss or `step` has the wrong type.
        """
        total = host_loss
        for stage in self.weighted(host_loss, terms, at=at, step=step, anchors=anchors):
            total = sum(stage.values(), total)
        return total

    def weighted(
        self,
        host_loss: Tensor,
        terms: Terms | Sequence[Terms],
        *,
        at: Tensor | Sequence[Tensor],
        step: int,
        anchors: Anchors | Sequence[Anchors] | None = None,
    ) -> list[dict[str, Tensor]]:
        """The summands that `forward` adds, weight · scale · term by name, one mapping per stage.

        Arguments and errors as `forward`. Terms whose weight is 0 are left out.
        """
        self.update(host_loss, terms, at=at, step=step, anchors=anchors)
        return [
            {
                name: self.factor(name, index, step) * term
                for name, term in stage.terms.items()
                if self.weight(name, step)
            }
            for index, stage in enumerate(split(terms, at, anchors))
        ]

    def update(
        self,
        host_loss: Tensor,
        terms: Terms | Sequence[Terms],
        *,
        at: Tensor | Sequence[Tensor],
        step: int,
        anchors: Anchors | Sequence[Anchors] | None = None,
    ) -> None:
        """Measure what is due at `step`, for those who multiply by `factor` themselves."""
        stages = self._begin(host_loss, terms, at, step, anchors)
        if torch.is_grad_enabled():
            self._measure_due(host_loss, stages, step)

    def measure(
        self,
        host_loss: Tensor,
        terms: Terms | Sequence[Terms],
        *,
        at: Tensor | Sequence[Tensor],
        step: int,
        anchors: Anchors | Sequence[Anchors] | None = None,
    ) -> list[dict[str, float]]:
        """Gradient norms for a log, due or not: {"host", and every term}, one mapping per stage.

        Arguments and errors as `forward`. Norms are those of the unweighted terms at `at` or at
        their anchor; "host" is the host's at `at`. A term without a share that does not reach the
        place has norm 0. The scales of terms that are due are updated, so nothing is measured twice
        in a step; those that are not due stay, so logging never alters training.
        """
        stages = self._begin(host_loss, terms, at, step, anchors)
        names = {name for stage in stages for name in stage.terms}
        pairs = self._norms(host_loss, stages, names)
        self._update(stages, pairs, self._due(stages, step), step)
        return [
            {"host": pair["host"][0], **{name: norm for name, (_, norm) in pair.items()}}
            for pair in pairs
        ]

    def report(self) -> dict[str, dict[str, float]]:
        """What was measured last, by term ("stage1/alr" where there are several stages).

        "ratio" is the gradient of the unweighted term as a fraction of the host's, the average
        that the scale follows (NaN before the first measurement and without a share); "scale" and
        "weight" are what the term was last multiplied with.
        """
        found = {}
        for name in self.shares:
            for label, scale in zip(self._labels, self.get_buffer(name).tolist(), strict=True):
                share = self.shares[name]
                found[label + name] = {
                    "ratio": share / scale if share and scale else math.nan,
                    "scale": scale,
                    "weight": self.weight(name, self._step),
                }
        return found

    def extra_repr(self) -> str:
        """Options for the printed module."""
        shares = "".join(f"{name}={share}, " for name, share in self.shares.items())
        return f"{shares}start={self.start}, ramp={self.ramp}, every={self.every}"

    def factor(self, name: str, stage: int, step: int) -> float | Tensor:
        """What a term of a stage (from 0) is multiplied with at `step`, once `update` has measured.

        A copy: the buffer changes while graphs are retained.
        """
        weight = self.weight(name, step)
        return weight * self.get_buffer(name)[stage].clone() if name in self.shares else weight

    def _begin(
        self,
        host_loss: Tensor,
        terms: Terms | Sequence[Terms],
        at: Tensor | Sequence[Tensor],
        step: int,
        anchors: Anchors | Sequence[Anchors] | None,
    ) -> list[Stage]:
        """The stages by themselves, after all checks that need no gradient."""
        scalar("host_loss", host_loss)
        if isinstance(step, bool) or not isinstance(step, int):
            raise TypeError(f"step is a {type(step).__name__}, expected an int: the step's number")
        stages = split(terms, at, anchors)
        known = {name for stage in stages for name in stage.terms}
        named = [*self.shares, *self.weights]
        for steps in (self.start, self.ramp):
            named += [] if isinstance(steps, int) else steps
        for name in named:
            if name not in known:
                raise ValueError(
                    f"TermBalance was built for a term {name!r}, terms holds"
                    f" {', '.join(map(repr, sorted(known)))}"
                )
        self._check_turns(stages, step)
        self._resize(len(stages))
        self._labels, self._step = [stage.label for stage in stages], step
        return stages

    def _check_turns(self, stages: list[Stage], step: int) -> None:
        """One balance, asked for two stages in turn, would mix up their scales."""
        shapes = [tensor.shape[1:] for stage in stages for tensor in stage.at]
        last, self._shapes = self._shapes, (step, shapes)
        if last is not None and last[0] == step and last[1] != shapes:
            raise ValueError(
                f"TermBalance was called twice in step {step} with `at` of different shapes: hand"
                " over all stages at once, terms=[...] and at=[...], or use one balance per stage"
            )

    def _resize(self, stages: int) -> None:
        for name in self.shares:
            scales = self.get_buffer(name)
            if len(scales) == stages:
                continue
            if self._record[name][1]:
                raise ValueError(
                    f"terms has {stages} stage(s), TermBalance holds scales of {len(scales)}"
                )
            setattr(self, name, self._unmeasured(name, stages).to(scales))

    def _due(self, stages: list[Stage], step: int) -> set[str]:
        """The shared terms to measure at `step`; the intervals double up to `every`."""
        due = set()
        for name, (last, count) in self._record.items():
            interval = min(self.every, 2 ** max(count - 1, 0))
            waits = count and last <= step < last + interval
            if self.shares[name] and self.weight(name, step) and not waits:
                due.add(name)
        return due & {name for stage in stages for name in stage.terms}

    def _measure_due(self, host_loss: Tensor, stages: list[Stage], step: int) -> None:
        due = self._due(stages, step)
        if due:
            self._update(stages, self._norms(host_loss, stages, due), due, step)

    def _norms(
        self, host_loss: Tensor, stages: list[Stage], names: set[str]
    ) -> list[dict[str, tuple[float, float]]]:
        """(host's norm, term's norm) by name and stage, the same on all ranks; "host" at `at`."""
        found = norms_beside(host_loss, stages, names, self.shares)
        values = torch.stack([norm for pairs in found for pair in pairs.values() for norm in pair])
        # The one place that waits for the device.
        flat = iter(root_mean_square_over_ranks(values.detach()).tolist())
        return [{name: (next(flat), next(flat)) for name in pairs} for pairs in found]

    def _update(
        self,
        stages: list[Stage],
        norms: list[dict[str, tuple[float, float]]],
        due: set[str],
        step: int,
    ) -> None:
        for index, (stage, pairs) in enumerate(zip(stages, norms, strict=True)):
            for name in (name for name in self.shares if name in pairs and name in due):
                host, norm = pairs[name]
                if reason := obstacle(host, norm):
                    self._journal.dropped(stage.label + name, reason)
                else:
                    self._set_scale(stage.label, name, index, norm / host)
        for position, name in enumerate(self.shares):
            if name in due:
                self._record[name] = step, self._record[name][1] + 1
                self.measured[position] = torch.tensor(self._record[name])

    def _set_scale(self, label: str, name: str, stage: int, ratio: float) -> None:
        """Set the scale that the average of the measured ratios asks for.

        The k-th measurement counts 1/k, and no less than RECENT: at first a plain average, then a
        moving one, since the gradients of single batches differ. It is the ratio that is averaged,
        not the scale: a term that is silent in most steps (no hard element left in the
        batch) would else get a scale at which the steps where it speaks drown the host.
        """
        share, scales = self.shares[name], self.get_buffer(name)
        scale, average = float(scales[stage]), ratio
        if scale:
            part = max(1 / (self._record[name][1] + 1), RECENT)
            average = (1 - part) * share / scale + part * ratio
        wanted = share / average
        with torch.no_grad():
            scales[stage] = wanted
        self._journal.measured(label + name, ratio, wanted, share)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TermBalance":
        """Move, but keep scales in float32: `.half()` would turn a scale of 1e6 into infinity."""
        before = {name: self.get_buffer(name) for name in self.shares}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, scales in before.items():
            moved = self.get_buffer(name)
            if moved.dtype != scales.dtype:
                setattr(self, name, scales.to(moved.device))
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take as many stages as were saved; scales saved without their step are measured anew."""
        for name in self.shares:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.dim() == 1:
                setattr(self, name, self._unmeasured(name, len(saved)).to(self.measured.device))
        state_dict.setdefault(prefix + "measured", self._never())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._record = self._read_record()
        held = [len(self.get_buffer(name)) for name in self.shares]
        self._labels = labels_of(max(held, default=1))
