"""What is measured: the ops, φ, and the loss path with and without it, at the published shapes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from alr_layers.kernels import requirements
from alr_layers.kernels.dispatch import implementation

GAMMA = 0.1
WORD_DIM = 256
Function = Callable[..., tuple[Tensor, ...]]


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


class CompileOptions(TypedDict, total=False):
    """What `torch.compile` is told beside the function."""

    mode: str


@dataclass(frozen=True)
class Provider:
    """How a function of a case is called: as it is, or compiled with these options."""

    function: str
    options: CompileOptions | None = None


PROVIDERS = {
    "copy": Provider("copy"),
    "transcription": Provider("transcription"),
    "loop": Provider("loop"),
    "eager": Provider("eager"),
    "compiled": Provider("eager", {}),
    "reduce-overhead": Provider("eager", {"mode": "reduce-overhead"}),
    "fused": Provider("fused"),
    "fused + compile": Provider("fused", {}),
    "channels_last": Provider("channels_last"),
    "autocast": Provider("autocast"),
    "autocast + channels_last": Provider("autocast + channels_last"),
    "autocast + channels_last + compile": Provider("autocast + channels_last", {}),
}


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        inputs: the differentiable tensors, then the others, and the call's further arguments.
        functions: name -> a function of those, returning the tensors to differentiate.
        moved: (numbers read and written forward, the same backward) per region and sample, the
            fewest that can do; None where convolutions or matrix products decide.
        follows_size: whether the size of the grid changes what is computed.
    """

    name: str
    inputs: Callable[[Shape, torch.dtype, torch.device], tuple[Any, ...]]
    functions: dict[str, Function] = field(repr=False)
    moved: Callable[[Shape], tuple[int, int]] | None = None
    follows_size: bool = True

    @property
    def providers(self) -> tuple[str, ...]:
        """The names in `PROVIDERS` that this case has a function for; a copy where bytes decide."""
        known = {*self.functions, *(["copy"] if self.moved else [])}
        return tuple(name for name, provider in PROVIDERS.items() if provider.function in known)

    def floor_bytes(self, shape: Shape, dtype: torch.dtype, mode: str) -> int | None:
        """The bytes that must go through device memory."""
        if self.moved is None or mode not in ("forward", "backward", "both"):
            return None
        forward, backward = self.moved(shape)
        numbers = {"forward": forward, "backward": backward, "both": forward + backward}[mode]
        return numbers * shape.batch * shape.regions * dtype.itemsize

    def called(self, provider: str) -> Function:
        """The function of a provider; compiled afresh, so that no two shapes share a compilation.

        One compiled function over many shapes turns dynamic at the second and falls back to eager,
        silently, after eight.
        """
        chosen = PROVIDERS[provider]
        function = self.functions[chosen.function]
        if chosen.options is None:
            return function
        torch.compiler.reset()
        compiled: Function = torch.compile(
            function, fullgraph=True, dynamic=False, **chosen.options
        )
        return compiled


def grid(channels: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random features on the grid of a shape."""
    return torch.randn(shape.batch, channels, shape.size, shape.size, device=device, dtype=dtype)


def random_layout(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A layout; two of them differ so that both easy and hard residuals occur."""
    return grid(shape.words, shape, torch.float32, device).mul(2).softmax(1).to(dtype)


def random_lengths(shape: Shape, device: torch.device) -> Tensor:
    """At least half of the words are real."""
    return torch.randint(max(1, shape.words // 2), shape.words + 1, (shape.batch,), device=device)


def projected_words(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """ŵ, of a size that makes the softmax neither flat nor a choice of one."""
    words = torch.randn(shape.batch, shape.dim, shape.words, device=device) / shape.dim**0.5
    return words.to(dtype)


def _layout_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    h = grid(shape.dim, shape, dtype, device).requires_grad_()
    words = projected_words(shape, dtype, device).requires_grad_()
    return h, words, random_lengths(shape, device)


def _gated_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    theta = random_layout(shape, dtype, device).requires_grad_()
    real = random_layout(shape, dtype, device)
    return theta, real, grid(shape.dim, shape, dtype, device), GAMMA


def _closing_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    channels = max(shape.dim, shape.words)
    weights = [grid(channels, shape, dtype, device).sigmoid().requires_grad_() for _ in "ab"]
    theta = random_layout(shape, dtype, device).requires_grad_()
    return theta, random_layout(shape, dtype, device), *weights, GAMMA


def _difference_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    h = grid(shape.dim, shape, dtype, device).requires_grad_()
    theta = random_layout(shape, dtype, device).requires_grad_()
    real = grid(shape.dim, shape, dtype, device)
    return h, real, theta, random_layout(shape, dtype, device), "soft"


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


def has_fused() -> bool:
    """Whether the installed Triton runs the kernels."""
    return requirements.triton_obstacle(requirements.TRITON) is None


def op_cases() -> tuple[Case, ...]:
    """The four ops of a training step."""
    table = (
        ("layout_context", _layout_inputs, _layout_numbers),
        ("gated_residual", _gated_inputs, _gated_numbers),
        ("layout_closing_reduction", _closing_inputs, _closing_numbers),
        ("masked_difference", _difference_inputs, _difference_numbers),
    )
    found = []
    for op, inputs, moved in table:
        functions = {"eager": implementation(op, "reference")}
        if has_fused():
            functions["fused"] = implementation(op, "fused")
        found.append(Case(op, inputs, functions, moved))
    return tuple(found)
