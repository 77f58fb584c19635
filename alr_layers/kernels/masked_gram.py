"""E10-E11 fused: ‖M h - M* h*‖_F and G(M h) - G(M* h*) without a masked copy of h or h*.

A first kernel reads Θ and Θ* once and leaves the mask of each region, N numbers a sample. A second
reads h and h* once, masks them in registers, and sums squares and Gram tiles into slots of its own,
which are added in a fixed order.

Backward, for one of the two sides (the loss only changes sign when they change places):
    x = M h,  y = x - M* h*,  dx = y · d‖y‖ / ‖y‖ + (dG + dGᵀ) x,  dh = M dx,  dM = Σ_d dx h,
and dM goes in equal parts to the words that attain the maximum.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from typing import Any

import torch
import triton
from torch import Tensor

from alr_layers.kernels import tiles
from alr_layers.kernels.masked_gram_kernels import (
    difference_backward_kernel,
    difference_forward_kernel,
    small_difference_backward_kernel,
)
from alr_layers.kernels.masks import region_masks


@torch.library.custom_op("alr_layers::masked_difference", mutates_args=())
def _masked_difference(
    features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor, soft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, dim, height, width = features.shape
    regions = height * width
    masks, real_masks = region_masks(layout, real_layout, soft)
    arithmetic = tiles.arithmetic(features, real_features)
    tile = tiles.gram_tile(dim, arithmetic, tiles.compute_capability(features))
    pieces, cuts = triton.cdiv(dim, tile.block_d), triton.cdiv(regions, tile.block_n)
    splits = tiles.split_count(cuts, batch * pieces)
    squares = masks.new_empty(batch, splits, pieces)
    grams = masks.new_empty(batch, splits, dim, dim)
    with tiles.on_device(features):
        difference_forward_kernel[(splits, batch, pieces * pieces)](
            **tiles.with_strides(features=features, real_features=real_features),
            masks=masks,
            real_masks=real_masks,
            squares=squares,
            grams=grams,
            dim=dim,
            regions=regions,
            width=width,
            splits=splits,
            tiles_per_split=triton.cdiv(cuts, splits),
            FLAT=tiles.is_flat(features, real_features),
            PRECISION=tile.precision,
            PIECES=pieces,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            num_warps=tile.warps,
            num_stages=1,
        )
    return squares.sum((1, 2)).sqrt(), grams.sum(1), masks, real_masks


@_masked_difference.register_fake
def _masked_difference_fake(
    features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor, soft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, dim, height, width = features.shape
    wide = features.new_empty(0, dtype=torch.float32)
    masks = wide.new_empty(batch, height * width)
    return (
        wide.new_empty(batch),
        wide.new_empty(batch, dim, dim),
        masks,
        torch.empty_like(masks),
    )


@torch.library.custom_op("alr_layers::masked_difference_backward", mutates_args=())
def _masked_difference_backward(
    grad_distance: Tensor,
    distance: Tensor,
    grad_gram: Tensor,
    features: Tensor,
    real_features: Tensor,
    layout: Tensor,
    masks: Tensor,
    real_masks: Tensor,
    sign: float,
    soft: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of (features, layout); with the two sides exchanged and sign -1, of the others."""
    batch, dim, height, width = features.shape
    words = layout.shape[1]
    grad_features = torch.empty_like(features)
    grad_layout = torch.empty_like(layout) if soft else layout.new_empty(0, 1, 1, 1)
    spread = (grad_layout,) if soft else ()
    tile = tiles.difference_tile(dim, words, tiles.arithmetic(features, real_features))
    one_piece = tile.block_d >= dim
    kernel = small_difference_backward_kernel if one_piece else difference_backward_kernel
    cuts = triton.cdiv(height * width, tile.block_n)
    splits = tiles.split_count(cuts, batch)
    with tiles.on_device(features):
        kernel[(splits, batch)](
            **tiles.with_strides(
                features=features,
                real_features=real_features,
                layout=layout,
                grad_features=grad_features,
                grad_layout=grad_layout,
            ),
            grad_distance=grad_distance.contiguous(),
            distance=distance,
            grad_gram=grad_gram.contiguous(),
            masks=masks,
            real_masks=real_masks,
            sign=sign,
            dim=dim,
            word_count=words,
            regions=height * width,
            width=width,
            tiles_per_split=triton.cdiv(cuts, splits),
            FLAT=tiles.is_flat(features, real_features, layout, grad_features, *spread),
            PRECISION=tile.precision,
            SOFT=soft,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            BLOCK_T=tiles.block_words(words),
            num_warps=tile.warps,
            num_stages=1,
        )
    return grad_features, grad_layout


@_masked_difference_backward.register_fake
def _masked_difference_backward_fake(
    grad_distance: Tensor,
    distance: Tensor,
    grad_gram: Tensor,
    features: Tensor,
    real_features: Tensor,
    layout: Tensor,
    masks: Tensor,
    real_masks: Tensor,
    sign: float,
    soft: bool,
) -> tuple[Tensor, Tensor]:
    grad_layout = torch.empty_like(layout) if soft else layout.new_empty(0, 1, 1, 1)
    return torch.empty_like(features), grad_layout


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.soft = inputs
    distance, _, masks, real_masks = output
    ctx.mark_non_differentiable(masks, real_masks)
    ctx.save_for_backward(*tensors, distance, masks, real_masks)


def _autograd(
    ctx: Any, grad_distance: Tensor, grad_gram: Tensor, *unused: Any
) -> tuple[Tensor | None, ...]:
    h, real_h, theta, real_theta, distance, masks, real_masks = ctx.saved_tensors
    of_h, of_real_h, of_theta, of_real_theta, _ = ctx.needs_input_grad
    grads: list[Tensor | None] = [None] * 5
    if of_h or of_theta:
        grads[0], grads[2] = _masked_difference_backward(
            grad_distance, distance, grad_gram, h, real_h, theta, masks, real_masks, 1.0, ctx.soft
        )
    if of_real_h or of_real_theta:
        grads[1], grads[3] = _masked_difference_backward(
            grad_distance, distance, grad_gram, real_h, h, real_theta, real_masks, masks, -1.0,
            ctx.soft,
        )  # fmt: skip
    if not ctx.soft:
        grads[2] = grads[3] = None
    return tuple(grads)


_masked_difference.register_autograd(_autograd, setup_context=_setup)
_masked_difference_backward.register_autograd(tiles.first_order_only("masked_difference_backward"))


def masked_difference(
    features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor, mask: str
) -> tuple[Tensor, Tensor]:
    """E10 and E11: (‖M_Θ ⊙ h - M_Θ* ⊙ h*‖_F, the difference of the Gram matrices).

    (B,) and (B, D, D), float32. First order only: see the reference for second derivatives.
    """
    outputs = _masked_difference(features, real_features, layout, real_layout, mask == "soft")
    return outputs[0], outputs[1]
