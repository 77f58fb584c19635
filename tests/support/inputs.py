"""Random input of every op, and the shapes worth trying."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

# batch, words, channels, height, width
SHAPES = {
    "plain": (2, 5, 8, 4, 4),
    "one of each": (1, 1, 1, 1, 1),
    "odd and oblong": (3, 7, 5, 3, 9),
    "more words than channels": (2, 9, 4, 5, 2),
    "one word": (2, 1, 6, 3, 3),
}


@dataclass(frozen=True)
class Inputs:
    features: Tensor
    real_features: Tensor
    projected_words: Tensor
    lengths: Tensor
    layout: Tensor
    real_layout: Tensor
    easy: Tensor
    hard: Tensor
    alpha: Tensor
    beta: Tensor
    gamma: float = 0.1
    mask: str = "soft"

    def args(self, op: str) -> tuple[Any, ...]:
        """The arguments of one op of the table, in order."""
        return tuple(getattr(self, name) for name in ARGUMENTS[op])

    def mapped(self, change: Any) -> "Inputs":
        """A copy with `change` applied to every floating tensor."""
        tensors = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor) and value.is_floating_point()
        }
        return replace(self, **tensors)


ARGUMENTS = {
    "semantic_similarity": ("features", "projected_words", "lengths"),
    "text_vision_matrix": ("layout", "projected_words"),
    "layout_context": ("features", "projected_words", "lengths"),
    "gated_residual": ("layout", "real_layout", "real_features", "gamma"),
    "closing_reduction": ("easy", "hard", "alpha", "beta"),
    "layout_closing_reduction": ("layout", "real_layout", "alpha", "beta", "gamma"),
    "masked_difference": ("features", "real_features", "layout", "real_layout", "mask"),
}


def ragged_lengths(batch: int, words: int) -> Tensor:
    """One full caption, one of a single word, the others between."""
    return torch.tensor([max(1, words - sample * max(1, words // 2)) for sample in range(batch)])


def random_layout(batch: int, words: int, height: int, width: int, lengths: Tensor) -> Tensor:
    scores = torch.randn(batch, words, height, width, dtype=torch.float64) * 2
    padding = torch.arange(words)[None, :, None, None] >= lengths[:, None, None, None]
    return scores.masked_fill(padding, -torch.inf).softmax(1)


def make_inputs(
    batch: int,
    words: int,
    channels: int,
    height: int,
    width: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Inputs:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lengths = ragged_lengths(batch, words)
        grid = (height, width)
        weights = max(words, channels)
        residual = torch.rand(batch, words, *grid, dtype=torch.float64)
        is_easy = torch.rand_like(residual) < 0.5
        inputs = Inputs(
            features=torch.randn(batch, channels, *grid, dtype=torch.float64),
            real_features=torch.randn(batch, channels, *grid, dtype=torch.float64),
            projected_words=torch.randn(batch, channels, words, dtype=torch.float64),
            lengths=lengths,
            layout=random_layout(batch, words, *grid, lengths),
            real_layout=random_layout(batch, words, *grid, lengths),
            easy=residual * is_easy,
            hard=residual * ~is_easy,
            alpha=torch.rand(batch, weights, *grid, dtype=torch.float64),
            beta=torch.rand(batch, weights, *grid, dtype=torch.float64),
            **options,
        )
    return inputs.mapped(lambda tensor: tensor.to(dtype))
