"""E5-E8 fused: from Θ, Θ*, h* straight to the live channels of what φ_α and φ_β read."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alr_layers.kernels import tiles
from alr_layers.kernels.tiles import (
    easy_part,
    hard_part,
    read_tile,
    sign,
    tile_of,
    write_tile,
)

BLOCK_C = 8
BLOCK_N = 256


@triton.jit(do_not_specialize=["live"])
def _gated_forward_kernel(
    layout,
    layout_strides,
    real_layout,
    real_layout_strides,
    real_features,
    real_features_strides,
    easy,
    easy_strides,
    hard,
    hard_strides,
    gamma,
    live,
    regions,
    width,
    FLAT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    b = tl.program_id(2).to(tl.int64)
    c, n = tile_of(tl.program_id(1), tl.program_id(0), BLOCK_C, BLOCK_N)
    mask = (c < live)[:, None] & (n < regions)[None, :]
    theta = read_tile(layout, layout_strides, b, c, n, width, mask, FLAT)
    real = read_tile(real_layout, real_layout_strides, b, c, n, width, mask, FLAT)
    h = read_tile(real_features, real_features_strides, b, c, n, width, mask, FLAT)
    residual = tl.abs(real - theta)
    out = easy_part(residual, residual, gamma) * h
    write_tile(easy, easy_strides, b, c, n, width, out, mask, FLAT)
    out = hard_part(residual, residual, gamma) * h
    write_tile(hard, hard_strides, b, c, n, width, out, mask, FLAT)


@triton.jit(do_not_specialize=["live", "word_count", "dim"])
def _gated_backward_kernel(
    grad_easy,
    grad_easy_strides,
    grad_hard,
    grad_hard_strides,
    layout,
    layout_strides,
    real_layout,
    real_layout_strides,
    real_features,
    real_features_strides,
    grad_layout,
    grad_layout_strides,
    grad_features,
    grad_features_strides,
    gamma,
    live,
    word_count,
    dim,
    regions,
    width,
    FLAT: tl.constexpr,
    HAS_EASY: tl.constexpr,
    HAS_HARD: tl.constexpr,
    OF_FEATURES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    b = tl.program_id(2).to(tl.int64)
    c, n = tile_of(tl.program_id(1), tl.program_id(0), BLOCK_C, BLOCK_N)
    inside = (n < regions)[None, :]
    mask = (c < live)[:, None] & inside
    theta = read_tile(layout, layout_strides, b, c, n, width, mask, FLAT)
    real = read_tile(real_layout, real_layout_strides, b, c, n, width, mask, FLAT)
    h = read_tile(real_features, real_features_strides, b, c, n, width, mask, FLAT)
    difference = real - theta
    residual = tl.abs(difference)
    grad = tl.zeros((BLOCK_C, BLOCK_N), tl.float32)
    if HAS_EASY:
        value = read_tile(grad_easy, grad_easy_strides, b, c, n, width, mask, FLAT)
        grad += easy_part(value, residual, gamma)
    if HAS_HARD:
        value = read_tile(grad_hard, grad_hard_strides, b, c, n, width, mask, FLAT)
        grad += hard_part(value, residual, gamma)
    out = tl.where(mask, -sign(difference) * h * grad, 0.0)
    kept = (c < word_count)[:, None] & inside
    write_tile(grad_layout, grad_layout_strides, b, c, n, width, out, kept, FLAT)
    if OF_FEATURES:
        out = tl.where(mask, residual * grad, 0.0)
        kept = (c < dim)[:, None] & inside
        write_tile(grad_features, grad_features_strides, b, c, n, width, out, kept, FLAT)


def _live(layout: Tensor, real_features: Tensor) -> int:
    return min(layout.shape[1], real_features.shape[1])


def _empty_gated(layout: Tensor, real_features: Tensor) -> tuple[Tensor, Tensor]:
    """In the layout of memory of h*: a φ that runs channels-last gets its input so."""
    batch, _, height, width = layout.shape
    live = _live(layout, real_features)
    last = torch.channels_last
    # Asked of h* itself: the strides of its first channels would depend on how many there are.
    turned = real_features.is_contiguous(memory_format=last) and not real_features.is_contiguous()
    easy = torch.empty(
        (batch, live, height, width),
        dtype=real_features.dtype,
        device=real_features.device,
        memory_format=last if turned else torch.contiguous_format,
    )
    return easy, torch.empty_like(easy)


def _empty_gradients(
    layout: Tensor, real_features: Tensor, of_features: bool
) -> tuple[Tensor, Tensor]:
    grad_layout = torch.empty_like(layout)
    if not of_features:
        return grad_layout, real_features.new_empty(0, 1, 1, 1)
    return grad_layout, torch.empty_like(real_features)


@torch.library.custom_op("alr_layers::gated_residual", mutates_args=())
def _gated_residual(
    layout: Tensor, real_layout: Tensor, real_features: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    batch, _, height, width = layout.shape
    live = _live(layout, real_features)
    easy, hard = _empty_gated(layout, real_features)
    grid = (triton.cdiv(height * width, BLOCK_N), triton.cdiv(live, BLOCK_C), batch)
    with tiles.on_device(layout):
        _gated_forward_kernel[grid](
            **tiles.with_strides(
                layout=layout,
                real_layout=real_layout,
                real_features=real_features,
                easy=easy,
                hard=hard,
            ),
            gamma=gamma,
            live=live,
            regions=height * width,
            width=width,
            FLAT=tiles.is_flat(layout, real_layout, real_features, easy),
            BLOCK_C=BLOCK_C,
            BLOCK_N=BLOCK_N,
        )
    return easy, hard


@_gated_residual.register_fake
def _gated_residual_fake(
    layout: Tensor, real_layout: Tensor, real_features: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    return _empty_gated(layout, real_features)


@torch.library.custom_op("alr_layers::gated_residual_backward", mutates_args=())
def _gated_residual_backward(
    grad_easy: Tensor | None,
    grad_hard: Tensor | None,
    layout: Tensor,
    real_layout: Tensor,
    real_features: Tensor,
    gamma: float,
    of_features: bool,
) -> tuple[Tensor, Tensor]:
    batch, words, height, width = layout.shape
    dim = real_features.shape[1]
    grad_layout, grad_features = _empty_gradients(layout, real_features, of_features)
    used = [grad for grad in (grad_easy, grad_hard) if grad is not None]
    written = (grad_layout, grad_features) if of_features else (grad_layout,)
    channels = max(words, dim) if of_features else words
    grid = (triton.cdiv(height * width, BLOCK_N), triton.cdiv(channels, BLOCK_C), batch)
    with tiles.on_device(layout):
        _gated_backward_kernel[grid](
            **tiles.with_strides(
                # What is absent is never read; any tensor may stand for it.
                grad_easy=layout if grad_easy is None else grad_easy,
                grad_hard=layout if grad_hard is None else grad_hard,
                layout=layout,
                real_layout=real_layout,
                real_features=real_features,
                grad_layout=grad_layout,
                grad_features=grad_features,
            ),
            gamma=gamma,
            live=_live(layout, real_features),
            word_count=words,
            dim=dim,
            regions=height * width,
            width=width,
            FLAT=tiles.is_flat(layout, real_layout, real_features, *used, *written),
            HAS_EASY=grad_easy is not None,
            HAS_HARD=grad_hard is not None,
            OF_FEATURES=of_features,
            BLOCK_C=BLOCK_C,
            BLOCK_N=BLOCK_N,
        )
    return grad_layout, grad_features


@_gated_residual_backward.register_fake
def _gated_residual_backward_fake(
    grad_easy: Tensor | None,
    grad_hard: Tensor | None,
    layout: Tensor,
    real_layout: Tensor,
    real_features: Tensor,
    gamma: float,
    of_features: bool,
) -> tuple[Tensor, Tensor]:
    return _empty_gradients(layout, real_features, of_features)


def _setup_gated(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.gamma = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _gated_autograd(
    ctx: Any, grad_easy: Tensor | None, grad_hard: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_easy is None and grad_hard is None:
        return None, None, None, None
    of_layout, of_real, of_features, _ = ctx.needs_input_grad
    grad_layout, grad_features = _gated_residual_backward(
        grad_easy, grad_hard, *ctx.saved_tensors, ctx.gamma, of_features
    )
    real = ctx.saved_tensors[1]
    return (
        grad_layout if of_layout else None,
        -grad_layout.to(real.dtype) if of_real else None,
        grad_features if of_features else None,
        None,
    )


_gated_residual.register_autograd(_gated_autograd, setup_context=_setup_gated)
_gated_residual_backward.register_autograd(tiles.first_order_only("gated_residual_backward"))


def gated_residual(
    layout: Tensor, real_layout: Tensor, real_features: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """E5-E8: the live channels of (R_easy ⊙ h*, R_hard ⊙ h*), (B, min(T, D), H, W) each."""
    easy, hard = _gated_residual(layout, real_layout, real_features, gamma)
    return easy, hard
