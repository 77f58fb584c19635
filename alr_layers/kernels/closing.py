"""E9 fused: two sums of squares, a maximum and a minimum in one pass.

Each program reduces a part of a sample into its own slot of six numbers; a second kernel reduces
the slots of a sample in a fixed order. The residuals come as such, or from Θ and Θ* in registers.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alr_layers.kernels import tiles
from alr_layers.kernels.tiles import (
    contiguous_like,
    easy_part,
    hard_part,
    norm_slope,
    read_tile,
    sign,
    tile_of,
    write_tile,
)

BLOCK_C = 8
BLOCK_N = 256


@triton.jit
def _pair(
    first,
    first_strides,
    second,
    second_strides,
    b,
    c,
    n,
    width,
    mask,
    gamma,
    FLAT: tl.constexpr,
    FROM_LAYOUTS: tl.constexpr,
):
    """(R_easy, R_hard, Θ* - Θ) of a tile; the last is 0 where the residuals are given."""
    x = read_tile(first, first_strides, b, c, n, width, mask, FLAT)
    y = read_tile(second, second_strides, b, c, n, width, mask, FLAT)
    if FROM_LAYOUTS:
        residual = tl.abs(y - x)
        easy = easy_part(residual, residual, gamma)
        hard = hard_part(residual, residual, gamma)
        return easy, hard, y - x
    return x, y, tl.zeros_like(x)


@triton.jit
def _extreme(values, HIGH: tl.constexpr):
    """The maximum or minimum of all values, NaN if one is: tl.max and tl.min pass over NaN."""
    found = tl.max(tl.ravel(values), 0) if HIGH else tl.min(tl.ravel(values), 0)
    return found + tl.sum(tl.ravel(tl.where(values != values, values, 0.0)), 0)


@triton.jit(do_not_specialize=["word_count", "splits", "tiles_per_split"])
def _closing_forward_kernel(
    first,
    first_strides,
    second,
    second_strides,
    alpha,
    alpha_strides,
    beta,
    beta_strides,
    slots,
    gamma,
    word_count,
    channels,
    regions,
    width,
    splits,
    tiles_per_split,
    FLAT: tl.constexpr,
    FROM_LAYOUTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    easy_square = tl.zeros((BLOCK_C, BLOCK_N), tl.float32)
    hard_square = tl.zeros((BLOCK_C, BLOCK_N), tl.float32)
    highest = tl.full((BLOCK_C, BLOCK_N), -float("inf"), tl.float32)
    lowest = tl.full((BLOCK_C, BLOCK_N), float("inf"), tl.float32)
    # How often an entry's own extreme was met: tied entries share the gradient evenly.
    high_count = tl.zeros((BLOCK_C, BLOCK_N), tl.float32)
    low_count = tl.zeros((BLOCK_C, BLOCK_N), tl.float32)

    c_tiles = tl.cdiv(channels, BLOCK_C)
    first_tile = split * tiles_per_split
    last = min(first_tile + tiles_per_split, c_tiles * tl.cdiv(regions, BLOCK_N))
    for tile in range(first_tile, last):
        c, n = tile_of(tile % c_tiles, tile // c_tiles, BLOCK_C, BLOCK_N)
        mask = (c < channels)[:, None] & (n < regions)[None, :]
        live = mask & (c < word_count)[:, None]
        a = read_tile(alpha, alpha_strides, b, c, n, width, mask, FLAT)
        z = read_tile(beta, beta_strides, b, c, n, width, mask, FLAT)
        easy, hard, _ = _pair(
            first, first_strides, second, second_strides, b, c, n, width, live, gamma,
            FLAT, FROM_LAYOUTS,
        )  # fmt: skip
        easy_square += a * a * easy * easy
        hard_square += z * z * hard * hard
        a = tl.where(mask, a, -float("inf"))
        z = tl.where(mask, z, float("inf"))
        met = high_count + tl.where(mask & (a == highest), 1.0, 0.0)
        high_count = tl.where(a > highest, 1.0, met)
        met = low_count + tl.where(mask & (z == lowest), 1.0, 0.0)
        low_count = tl.where(z < lowest, 1.0, met)
        highest = tl.maximum(highest, a, propagate_nan=tl.PropagateNan.ALL)
        lowest = tl.minimum(lowest, z, propagate_nan=tl.PropagateNan.ALL)

    high = _extreme(highest, True)
    low = _extreme(lowest, False)
    place = slots + (b * splits + split) * 6
    tl.store(place + 0, tl.sum(easy_square))
    tl.store(place + 1, tl.sum(hard_square))
    tl.store(place + 2, high)
    tl.store(place + 3, low)
    tl.store(place + 4, tl.sum(tl.where(highest == high, high_count, 0.0)))
    tl.store(place + 5, tl.sum(tl.where(lowest == low, low_count, 0.0)))


@triton.jit(do_not_specialize=["splits"])
def _closing_finish_kernel(slots, totals, splits, BLOCK_S: tl.constexpr):
    """Reduce the slots of one sample to (‖easy‖, ‖hard‖, max, min, ties of max, ties of min)."""
    b = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, BLOCK_S)
    place = slots + (b * splits + s) * 6
    mask = s < splits
    highest = tl.load(place + 2, mask=mask, other=-float("inf"))
    lowest = tl.load(place + 3, mask=mask, other=float("inf"))
    high = _extreme(highest, True)
    low = _extreme(lowest, False)
    high_count = tl.load(place + 4, mask=mask, other=0.0)
    low_count = tl.load(place + 5, mask=mask, other=0.0)
    totals += b * 6
    tl.store(totals + 0, tl.sqrt(tl.sum(tl.load(place + 0, mask=mask, other=0.0))))
    tl.store(totals + 1, tl.sqrt(tl.sum(tl.load(place + 1, mask=mask, other=0.0))))
    tl.store(totals + 2, high)
    tl.store(totals + 3, low)
    tl.store(totals + 4, tl.sum(tl.where(highest == high, high_count, 0.0)))
    tl.store(totals + 5, tl.sum(tl.where(lowest == low, low_count, 0.0)))


@triton.jit(do_not_specialize=["word_count"])
def _closing_backward_kernel(
    grad_totals,
    grad_totals_strides,
    totals,
    first,
    first_strides,
    second,
    second_strides,
    alpha,
    alpha_strides,
    beta,
    beta_strides,
    grad_first,
    grad_first_strides,
    grad_second,
    grad_second_strides,
    grad_alpha,
    grad_alpha_strides,
    grad_beta,
    grad_beta_strides,
    gamma,
    word_count,
    channels,
    regions,
    width,
    FLAT: tl.constexpr,
    FROM_LAYOUTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    b = tl.program_id(2).to(tl.int64)
    c, n = tile_of(tl.program_id(1), tl.program_id(0), BLOCK_C, BLOCK_N)
    inside = (n < regions)[None, :]
    mask = (c < channels)[:, None] & inside
    live = (c < word_count)[:, None] & inside
    totals += b * 6
    grad_totals += b * grad_totals_strides[0]
    step = grad_totals_strides[1]
    easy_slope = norm_slope(tl.load(grad_totals), tl.load(totals))
    hard_slope = norm_slope(tl.load(grad_totals + step), tl.load(totals + 1))
    high_share = tl.load(grad_totals + 2 * step) / tl.load(totals + 4)
    low_share = tl.load(grad_totals + 3 * step) / tl.load(totals + 5)

    a = read_tile(alpha, alpha_strides, b, c, n, width, mask, FLAT)
    z = read_tile(beta, beta_strides, b, c, n, width, mask, FLAT)
    easy, hard, difference = _pair(
        first, first_strides, second, second_strides, b, c, n, width, live, gamma,
        FLAT, FROM_LAYOUTS,
    )  # fmt: skip
    out = easy_slope * a * easy * easy + tl.where(a == tl.load(totals + 2), high_share, 0.0)
    write_tile(grad_alpha, grad_alpha_strides, b, c, n, width, out, mask, FLAT)
    out = hard_slope * z * hard * hard + tl.where(z == tl.load(totals + 3), low_share, 0.0)
    write_tile(grad_beta, grad_beta_strides, b, c, n, width, out, mask, FLAT)
    grad_easy = easy_slope * a * a * easy
    grad_hard = hard_slope * z * z * hard
    if FROM_LAYOUTS:
        # One of the two is 0, and stays so: R is easy or hard, never both.
        out = -sign(difference) * (grad_easy + grad_hard)
        write_tile(grad_first, grad_first_strides, b, c, n, width, out, live, FLAT)
    else:
        write_tile(grad_first, grad_first_strides, b, c, n, width, grad_easy, live, FLAT)
        write_tile(grad_second, grad_second_strides, b, c, n, width, grad_hard, live, FLAT)


@torch.library.custom_op("alr_layers::closing_totals", mutates_args=())
def _closing_totals(
    first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor, gamma: float, from_layouts: bool
) -> Tensor:
    batch, channels, height, width = alpha.shape
    cuts = triton.cdiv(height * width, BLOCK_N) * triton.cdiv(channels, BLOCK_C)
    splits = tiles.split_count(cuts, batch)
    slots = alpha.new_empty(batch, splits, 6, dtype=torch.float32)
    totals = alpha.new_empty(batch, 6, dtype=torch.float32)
    with tiles.on_device(alpha):
        _closing_forward_kernel[(splits, batch)](
            **tiles.with_strides(first=first, second=second, alpha=alpha, beta=beta),
            slots=slots,
            gamma=gamma,
            word_count=first.shape[1],
            channels=channels,
            regions=height * width,
            width=width,
            splits=splits,
            tiles_per_split=triton.cdiv(cuts, splits),
            FLAT=tiles.is_flat(first, second, alpha, beta),
            FROM_LAYOUTS=from_layouts,
            BLOCK_C=BLOCK_C,
            BLOCK_N=BLOCK_N,
        )
        _closing_finish_kernel[(batch,)](
            slots=slots, totals=totals, splits=splits, BLOCK_S=tiles.TARGET_PROGRAMS
        )
    return totals


@_closing_totals.register_fake
def _closing_totals_fake(
    first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor, gamma: float, from_layouts: bool
) -> Tensor:
    return alpha.new_empty(alpha.shape[0], 6, dtype=torch.float32)


@torch.library.custom_op("alr_layers::closing_totals_backward", mutates_args=())
def _closing_totals_backward(
    grad_totals: Tensor,
    totals: Tensor,
    first: Tensor,
    second: Tensor,
    alpha: Tensor,
    beta: Tensor,
    gamma: float,
    from_layouts: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = alpha.shape
    grads = contiguous_like(first), contiguous_like(alpha), contiguous_like(beta)
    grad_first, grad_alpha, grad_beta = grads
    grad_second = second.new_empty((0, 1, 1, 1) if from_layouts else second.shape)
    grid = (triton.cdiv(height * width, BLOCK_N), triton.cdiv(channels, BLOCK_C), batch)
    with tiles.on_device(alpha):
        _closing_backward_kernel[grid](
            **tiles.with_strides(
                grad_totals=grad_totals,
                first=first,
                second=second,
                alpha=alpha,
                beta=beta,
                grad_first=grad_first,
                grad_second=grad_second,
                grad_alpha=grad_alpha,
                grad_beta=grad_beta,
            ),
            totals=totals,
            gamma=gamma,
            word_count=first.shape[1],
            channels=channels,
            regions=height * width,
            width=width,
            FLAT=tiles.is_flat(first, second, alpha, beta),
            FROM_LAYOUTS=from_layouts,
            BLOCK_C=BLOCK_C,
            BLOCK_N=BLOCK_N,
        )
    return grad_first, grad_second, grad_alpha, grad_beta


@_closing_totals_backward.register_fake
def _closing_totals_backward_fake(
    grad_totals: Tensor,
    totals: Tensor,
    first: Tensor,
    second: Tensor,
    alpha: Tensor,
    beta: Tensor,
    gamma: float,
    from_layouts: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_second = second.new_empty((0, 1, 1, 1) if from_layouts else second.shape)
    return contiguous_like(first), grad_second, contiguous_like(alpha), contiguous_like(beta)


def _setup_closing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.gamma, ctx.from_layouts = inputs
    ctx.save_for_backward(output, *tensors)


def _closing_autograd(ctx: Any, grad_totals: Tensor) -> tuple[Tensor | None, ...]:
    grad_first, grad_second, grad_alpha, grad_beta = _closing_totals_backward(
        grad_totals, *ctx.saved_tensors, ctx.gamma, ctx.from_layouts
    )
    if ctx.from_layouts:
        second = ctx.saved_tensors[2]
        of_second = -grad_first.to(second.dtype) if ctx.needs_input_grad[1] else None
    else:
        of_second = grad_second
    return grad_first, of_second, grad_alpha, grad_beta, None, None


_closing_totals.register_autograd(_closing_autograd, setup_context=_setup_closing)
_closing_totals_backward.register_autograd(tiles.first_order_only("closing_totals_backward"))


def closing_reduction(
    easy: Tensor, hard: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E9's (‖α ⊙ R_easy‖_F, ‖β ⊙ R_hard‖_F, max α, min β), (B,) float32 each."""
    totals = _closing_totals(easy, hard, alpha, beta, 0.0, False)
    return totals[:, 0], totals[:, 1], totals[:, 2], totals[:, 3]


def layout_closing_reduction(
    layout: Tensor, real_layout: Tensor, alpha: Tensor, beta: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same four numbers straight from the layouts: R_easy and R_hard are never written."""
    totals = _closing_totals(layout, real_layout, alpha, beta, gamma, True)
    return totals[:, 0], totals[:, 1], totals[:, 2], totals[:, 3]
