"""What TermBalance is given: terms and places by stage, shares and schedules, all checked."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

Terms: TypeAlias = Mapping[str, Tensor]
Anchors: TypeAlias = Mapping[str, Tensor]
Schedule: TypeAlias = int | Mapping[str, int]


class Stage(NamedTuple):
    """The terms of one stage, and where their gradients meet the host's."""

    label: str
    terms: Terms
    at: tuple[Tensor, ...]
    anchors: Anchors

    def place(self, name: str) -> tuple[Tensor, ...]:
        """The tensors at which the term `name` is compared."""
        return (self.anchors[name],) if name in self.anchors else self.at


def amount(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a number, 0 or more")
    if not (0 <= value < math.inf):
        raise ValueError(f"{name} is {value}, expected a finite number, 0 or more")
    return float(value)


def schedule(name: str, value: Schedule) -> Schedule:
    steps = {name: value} if not isinstance(value, Mapping) else dict(value)
    for key, number in steps.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(
                f"{name} of {key} is {number!r}, expected a number of steps, 0 or more"
            )
    return dict(value) if isinstance(value, Mapping) else value


def labels_of(stages: int) -> list[str]:
    return [""] if stages == 1 else [f"stage{number}/" for number in range(1, stages + 1)]


def scalar(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a scalar tensor")
    if value.numel() != 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected a scalar")


def split(
    terms: Terms | Sequence[Terms],
    at: Tensor | Sequence[Tensor],
    anchors: Anchors | Sequence[Anchors] | None,
) -> list[Stage]:
    """One `Stage` per mapping of terms."""
    tensors = [at] if isinstance(at, Tensor) else list(at)
    if isinstance(terms, Mapping):
        places = [tuple(tensors)]
        terms = [terms]
    else:
        places = [(tensor,) for tensor in tensors]
        terms = list(terms)
    if isinstance(anchors, Mapping) or anchors is None:
        anchors = [anchors or {}] * len(terms)
    if not len(terms) == len(places) == len(anchors):
        raise ValueError(
            f"terms has {len(terms)} stage(s), at {len(places)}, anchors {len(anchors)}: expected"
            " one tensor (and one mapping of anchors) per stage"
        )
    for mapping in terms:
        for name, term in mapping.items():
            if name == "host":
                raise ValueError("a term cannot be called 'host', which stands for the host's loss")
            scalar(f"term {name!r}", term)
    labels = labels_of(len(terms))
    return [Stage(*stage) for stage in zip(labels, terms, places, anchors, strict=True)]
