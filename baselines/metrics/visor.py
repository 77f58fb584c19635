"""VISOR (Gokhale et al. 2022): are two objects there, and where the prompt puts them?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from baselines.metrics.detectors import Detection
from baselines.metrics.geneval import Prompt
from baselines.metrics.relations import Rule, visor
from baselines.metrics.resampling import share
from baselines.metrics.spec import Score

CONFIDENCE = 0.1


@dataclass(frozen=True)
class RelationPrompt:
    """A prompt that puts one object in a relation to another: "left of", "above", ..."""

    first: str
    relation: str
    second: str


def relation_prompt(prompt: Prompt) -> RelationPrompt | None:
    """Read a prompt of GenEval's that puts one object in a relation to one other, or None."""
    if len(prompt.include) != 2 or any(wanted.count != 1 for wanted in prompt.include):
        return None
    second, first = prompt.include
    if first.position is None:
        return None
    return RelationPrompt(first.label, first.position[0], second.label)


def check(
    prompt: RelationPrompt, detections: Iterable[Detection], *, rule: Rule = visor
) -> tuple[bool, bool]:
    """Say whether both objects are found, and whether some pair of them is in the relation."""
    found = [d for d in detections if d.score > CONFIDENCE]
    pairs = [
        (a, b)
        for a in found
        for b in found
        if a is not b and (a.label, b.label) == (prompt.first, prompt.second)
    ]
    return bool(pairs), any(prompt.relation in rule(a.box, b.box) for a, b in pairs)


def visor_scores(outcomes: Sequence[Sequence[tuple[bool, bool]]]) -> dict[str, Score]:
    """Sum up the outcomes of `check`, a list of samples for every prompt.

    Returns:
        object_accuracy: both objects found; unconditional: and in their relation; conditional: in
        their relation where both are found (by chance 0.5 under VISOR's rule); visor_N: prompts of
        which N samples or more are right.
    """
    both = torch.tensor([[float(found) for found, _ in samples] for samples in outcomes])
    right = torch.tensor([[float(held) for _, held in samples] for samples in outcomes])
    everything = torch.full((len(outcomes),), float(both.shape[1]))
    rows = {
        "object_accuracy": (both.sum(dim=1), everything),
        "unconditional": (right.sum(dim=1), everything),
        "conditional": (right.sum(dim=1), both.sum(dim=1)),
    }
    for least in range(1, both.shape[1] + 1):
        rows[f"visor_{least}"] = (
            (right.sum(dim=1) >= least).double(),
            torch.ones(len(outcomes)),
        )
    found = {}
    for name, (held, stated) in rows.items():
        value, error, interval = share(held, stated)
        chance = 0.5 if name == "conditional" else None
        found[name] = Score(
            value, error=error, interval=interval, chance=chance, count=int(stated.sum())
        )
    return found
