"""What is measured: the ops and the whole loss path, at the shapes of the published models."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alr_layers import ALRLoss, ALRModule, LVRLoss
from alr_layers.kernels import requirements
from alr_layers.kernels.dispatch import implementation
from baselines.losses import words_loss
from benchmarks import transcription, upstream

GAMMA = 0.1
WORD_DIM = 256


@dataclass(frozen=True)
class Shape:
    """B samples, D channels, T words, a grid of size x size regions."""

    name: str
    batch: int
    dim: int
    words: int
    size: int

    @property
    def regions(self) -> int:
        """N, of one sample."""
        return self.size * self.size


MODELS = (Shape("cub", 20, 32, 18, 0), Shape("coco", 14, 48, 12, 0), Shape("dmgan", 10, 64, 18, 0))
SHAPES = tuple(replace(model, size=size) for size in (64, 128) for model in MODELS)
SWEEP = (*(Shape("sweep", 8, 32, 18, size) for size in (32, 256)), Shape("sweep", 64, 32, 18, 128))


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        inputs: the differentiable tensors, then the others, and the call's further arguments.
        providers: name -> a function of those, returning the tensors to differentiate.
        moved: (numbers read and written forward, the same backward) per region and sample, the
            fewest that can do; None where convolutions or matrix products decide.
    """

    name: str
    inputs: Callable[[Shape, torch.dtype, torch.device], tuple[Any, ...]]
    providers: dict[str, Callable[..., tuple[Tensor, ...]]]
    moved: Callable[[Shape], tuple[int, int]] | None

    def floor_bytes(self, shape: Shape, dtype: torch.dtype, mode: str) -> int | None:
        """The bytes that must go through device memory."""
        if self.moved is None or mode not in ("forward", "backward", "both"):
            return None
        forward, backward = self.moved(shape)
        numbers = {"forward": forward, "backward": backward, "both": forward + backward}[mode]
        return numbers * shape.batch * shape.regions * dtype.itemsize


def _grid(channels: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape.batch, channels, shape.size, shape.size, device=device, dtype=dtype)


def _theta(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Shifted from one word to the next, so that both easy and hard residuals occur.
    return _grid(shape.words, shape, torch.float32, device).mul(2).softmax(1).to(dtype)


def _lengths(shape: Shape, device: torch.device) -> Tensor:
    return torch.randint(max(1, shape.words // 2), shape.words + 1, (shape.batch,), device=device)


def _layout_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    words = torch.randn(shape.batch, shape.dim, shape.words, device=device) / shape.dim**0.5
    h = _grid(shape.dim, shape, dtype, device).requires_grad_()
    return h, words.to(dtype).requires_grad_(), _lengths(shape, device)


def _gated_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    theta = _theta(shape, dtype, device).requires_grad_()
    return theta, _theta(shape, dtype, device), _grid(shape.dim, shape, dtype, device), GAMMA


def _closing_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    weights = [_grid(max(shape.dim, shape.words), shape, dtype, device).sigmoid() for _ in "ab"]
    alpha, beta = (weight.requires_grad_() for weight in weights)
    theta = _theta(shape, dtype, device).requires_grad_()
    return theta, _theta(shape, dtype, device), alpha, beta, GAMMA


def _difference_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    h = _grid(shape.dim, shape, dtype, device).requires_grad_()
    theta = _theta(shape, dtype, device).requires_grad_()
    real = _grid(shape.dim, shape, dtype, device)
    return h, real, theta, _theta(shape, dtype, device), "soft"


def _op_providers(op: str) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    plain = implementation(op, "reference")
    providers = {"eager": plain, "compiled": torch.compile(plain, fullgraph=True)}
    if requirements.triton_obstacle(requirements.TRITON) is None:
        providers["fused"] = implementation(op, "fused")
    return providers


def _path_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    h, real = (_grid(shape.dim, shape, dtype, device) for _ in "ab")
    words = torch.randn(shape.batch, WORD_DIM, shape.words, device=device, dtype=dtype)
    torch.manual_seed(0)
    modules = ALRModule(shape.dim, WORD_DIM), ALRLoss(shape.dim, max_words=shape.words), LVRLoss()
    module, alr, lvr = (part.to(device, dtype) for part in modules)
    return h.requires_grad_(), real, words, _lengths(shape, device), module, alr, lvr


def _path(backend: str) -> Callable[..., tuple[Tensor, ...]]:
    def run(
        h: Tensor,
        real: Tensor,
        words: Tensor,
        lengths: Tensor,
        module: ALRModule,
        alr: ALRLoss,
        lvr: LVRLoss,
    ) -> tuple[Tensor, ...]:
        module.backend = alr.backend = lvr.backend = backend
        context, layout = module(h, words, lengths)
        with torch.no_grad():
            real_layout = module.layout(real, words, lengths)
        loss = alr(layout, real_layout, real) + lvr(h, real, layout, real_layout)
        return loss, context

    return run


def _path_providers() -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    return {
        "transcription": transcription.loss_path,
        "eager": _path("reference"),
        "compiled": torch.compile(_path("reference")),
        "fused": _path("fused"),
    }


def _damsm_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    regions = torch.randn(shape.batch, WORD_DIM, 17, 17, device=device, dtype=dtype)
    words = torch.randn(shape.batch, WORD_DIM, shape.words, device=device, dtype=dtype)
    classes = torch.arange(shape.batch, device=device)
    return regions.requires_grad_(), words.requires_grad_(), _lengths(shape, device), classes


def _damsm_providers() -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    gammas = {"gamma1": 4.0, "gamma2": 5.0, "gamma3": 10.0}
    ours = partial(words_loss, **gammas)
    return {
        "loop": partial(upstream.words_loss, **gammas),
        "eager": ours,
        "compiled": torch.compile(ours),
    }


def _layout_numbers(s: Shape) -> tuple[int, int]:
    return 2 * s.dim + s.words, 3 * s.dim + s.words


def _gated_numbers(s: Shape) -> tuple[int, int]:
    live = min(s.words, s.dim)
    return 5 * live, 5 * live + s.words


def _closing_numbers(s: Shape) -> tuple[int, int]:
    weights = 2 * max(s.dim, s.words)
    return 2 * s.words + weights, 3 * s.words + 2 * weights


def _difference_numbers(s: Shape) -> tuple[int, int]:
    return 2 * s.dim + 2 * s.words, 3 * s.dim + 2 * s.words


def cases() -> tuple[Case, ...]:
    """All of them, built when asked for: importing this must not compile anything."""
    ops = (
        ("layout_context", _layout_inputs, _layout_numbers),
        ("gated_residual", _gated_inputs, _gated_numbers),
        ("layout_closing_reduction", _closing_inputs, _closing_numbers),
        ("masked_difference", _difference_inputs, _difference_numbers),
    )
    built = [Case(op, inputs, _op_providers(op), moved) for op, inputs, moved in ops]
    return (
        *built,
        Case("loss_path", _path_inputs, _path_providers(), None),
        Case("damsm_words_loss", _damsm_inputs, _damsm_providers(), None),
    )
