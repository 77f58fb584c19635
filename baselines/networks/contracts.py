"""What hosts, networks and refinement agree on: text, fusions, stages that can be refined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn.parameter import Parameter


class Text(NamedTuple):
    """Encoded captions of one batch, as a stage is given them.

    words: w, (B, E, T), anything in the padded columns; lengths: (B,) integers in 1..T;
    sentence: (B, E); condition: (B, C), what the conditioning augmentation drew of the sentence for
    this pass, None where the stages of a host are not given it.
    """

    words: Tensor
    lengths: Tensor
    sentence: Tensor
    condition: Tensor | None = None


class GeneratorInputs(NamedTuple):
    """All that one pass of a generator was given.

    noise: z, (B, Z); text; eps: (B, C), the noise of the conditioning augmentation, None where the
    host has none.
    """

    noise: Tensor
    text: Text
    eps: Tensor | None


class GeneratorOutput(NamedTuple):
    """What a generator returns.

    images: per painted stage (B, 3, S, S) in [-1, 1], smallest first.
    features: per stage (B, D, H, W), what the next stage reads; their widths may differ.
    layouts: per refinement stage Θ, (B, T, H, W) on the grid of the stage's input; empty for hosts
        whose stages read no words.
    mu, logvar: (B, C) each, of the conditioning augmentation; (B, 0) where there is none.
    """

    images: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    layouts: tuple[Tensor, ...]
    mu: Tensor
    logvar: Tensor


class Fusion(Protocol):
    """How a refinement stage brings the caption into its features: a module, one per stage.

    feature_dim: D, channels of the features it reads.
    """

    feature_dim: int

    def __call__(self, features: Tensor, text: Text) -> tuple[Tensor, Tensor | None]:
        """(B, D, H, W) -> fused (B, 2D, H, W) and Θ (B, T, H, W), None for a fusion without words.

        Sentence and condition may be used, the words may not be.
        """
        ...

    def layout(self, features: Tensor, text: Text) -> Tensor:
        """Θ of any features on the grid, (B, T, H, W); of `text` only words and lengths count."""
        ...


@dataclass(frozen=True)
class RefinableStage:
    """What layout refinement must know of one stage of a host.

    name: what the log calls it, "stage1" for the first refined one.
    feature_dim: D of its features h.
    features, layout: where h and Θ are in the generator's output; `layout` is None for a host
        without one, then refinement brings an `ALRModule` that lives in training only.
    source: the fusion that gives Θ* of real features, None with `layout`.
    decode: h* and the inputs of this step -> images of `image_size`, through the host's own layers.
    image_size: side in pixels of the real image that E reads and `decode` reconstructs.
    downsample: that side over the side of the grid of h.
    anchor: a weight of the image head that decodes, where L_REC meets the host's loss.
    host: the module whose running statistics real features must not touch.
    """

    name: str
    feature_dim: int
    features: Callable[[GeneratorOutput], Tensor]
    layout: Callable[[GeneratorOutput], Tensor] | None
    source: Fusion | None
    decode: Callable[[Tensor, GeneratorInputs], Tensor]
    image_size: int
    downsample: int
    anchor: Parameter
    host: nn.Module
