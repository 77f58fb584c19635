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
    easy_part,
    hard_part,
    norm_slope,
    read_tile,
    sign,
    tile_of,
    write_tile,
)

BLOCK_C = 8
BLOCK_N = 128  # with 256 the forward pass holds 168 registers a thread, with 128 it holds 94


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
def _closing_finish_kernel(slots, numbers, ties, splits, BLOCK_S: tl.constexpr):
    """Reduce the slots of one sample to (‖easy‖, ‖hard‖, max, min) and (ties of max, of min)."""
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
    numbers += b * 4
    tl.store(numbers + 0, tl.sqrt(tl.sum(tl.load(place + 0, mask=mask, other=0.0))))
    tl.store(numbers + 1, tl.sqrt(tl.sum(tl.load(place + 1, mask=mask, other=0.0))))
    tl.store(numbers + 2, high)
    tl.store(numbers + 3, low)
    tl.store(ties + b * 2 + 0, tl.sum(tl.where(highest == high, high_count, 0.0)))
    tl.store(ties + b * 2 + 1, tl.sum(tl.where(lowest == low, low_count, 0.0)))


@triton.jit(do_not_specialize=["word_count"])
def _closing_backward_kernel(
    grad_numbers,
    grad_numbers_strides,
    numbers,
    ties,
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
    numbers += b * 4
    ties += b * 2
    grad_numbers += b * grad_numbers_strides[0]
    step = grad_numbers_strides[1]
    easy_slope = norm_slope(tl.load(grad_numbers), tl.load(numbers))
    hard_slope = norm_slope(tl.load(grad_numbers + step), tl.load(numbers + 1))
    high_share = tl.load(grad_numbers + 2 * step) / tl.load(ties)
    low_share = tl.load(grad_numbers + 3 * step) / tl.load(ties + 1)

    a = read_tile(alpha, alpha_strides, b, c, n, width, mask, FLAT)
    z = read_tile(beta, beta_strides, b, c, n, width, mask, FLAT)
    easy, hard, difference = _pair(
        first, first_strides, second, second_strides, b, c, n, width, live, gamma,
        FLAT, FROM_LAYOUTS,
    )  # fmt: skip
    out = easy_slope * a * easy * easy + tl.where(a == tl.load(numbers + 2), high_share, 0.0)
    write_tile(grad_alpha, grad_alpha_strides, b, c, n, width, out, mask, FLAT)
    out = hard_slope * z * hard * hard + tl.where(z == tl.load(numbers + 3), low_share, 0.0)
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


@torch.library.custom_op("alr_layers::closing_numbers", mutates_args=())
def _closing_numbers(
    first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor, gamma: float, from_layouts: bool
) -> tuple[Tensor, Tensor]:
    """The four numbers of E9, (B, 4), and how often the two extremes are met, (B, 2)."""
    batch, channels, height, width = alpha.shape
    cuts = triton.cdiv(height * width, BLOCK_N) * triton.cdiv(channels, BLOCK_C)
    splits = tiles.split_count(cuts, batch)
    slots = alpha.new_empty(batch, splits, 6, dtype=torch.float32)
    numbers, ties = slots.new_empty(batch, 4), slots.new_empty(batch, 2)
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
            slots=slots, numbers=numbers, ties=ties, splits=splits, BLOCK_S=tiles.TARGET_PROGRAMS
        )
    return numbers, ties


@_closing_numbers.register_fake
def _closing_numbers_fake(
    first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor, gamma: float, from_layouts: bool
) -> tuple[Tensor, Tensor]:
    numbers = alpha.new_empty(alpha.shape[0], 4, dtype=torch.float32)
    return numbers, numbers.new_empty(alpha.shape[0], 2)


def _empty_gradients(
    first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor, from_layouts: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In the layout of memory of what they belong to, so that nobody has to turn them."""
    grad_second = second.new_empty(0, 1, 1, 1) if from_layouts else torch.empty_like(second)
    return torch.empty_like(first), grad_second, torch.empty_like(alpha), torch.empty_like(beta)


@torch.library.custom_op("alr_layers::closing_numbers_backward", mutates_args=())
def _closing_numbers_backward(
    grad_numbers: Tensor,
    numbers: Tensor,
    ties: Tensor,
    first: Tensor,
    second: Tensor,
    alpha: Tensor,
    beta: Tensor,
    gamma: float,
    from_layouts: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = alpha.shape
    grads = _empty_gradients(first, second, alpha, beta, from_layouts)
    grad_first, grad_second, grad_alpha, grad_beta = grads
    written = (grad_first, grad_alpha, grad_beta, *(() if from_layouts else (grad_second,)))
    grid = (triton.cdiv(height * width, BLOCK_N), triton.cdiv(channels, BLOCK_C), batch)
    with tiles.on_device(alpha):
        _closing_backward_kernel[grid](
            **tiles.with_strides(
                grad_numbers=grad_numbers,
                first=first,
                second=second,
                alpha=alpha,
                beta=beta,
                grad_first=grad_first,
                grad_second=grad_second,
                grad_alpha=grad_alpha,
                grad_beta=grad_beta,
            ),
            numbers=numbers,
            ties=ties,
            gamma=gamma,
            word_count=first.shape[1],
            channels=channels,
            regions=height * width,
            width=width,
            FLAT=tiles.is_flat(first, second, alpha, beta, *written),
            FROM_LAYOUTS=from_layouts,
            BLOCK_C=BLOCK_C,
            BLOCK_N=BLOCK_N,
        )
    return grads


@_closing_numbers_backward.register_fake
def _closing_numbers_backward_fake(
    grad_numbers: Tensor,
    numbers: Tensor,
    ties: Tensor,
    first: Tensor,
    second: Tensor,
    alpha: Tensor,
    beta: Tensor,
    gamma: float,
    from_layouts: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_gradients(first, second, alpha, beta, from_layouts)


def _setup_closing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.gamma, ctx.from_layouts = inputs
    numbers, ties = output
    ctx.mark_non_differentiable(ties)
    ctx.save_for_backward(numbers, ties, *tensors)


def _closing_autograd(ctx: Any, grad_numbers: Tensor, unused: Tensor) -> tuple[Tensor | None, ...]:
    grad_first, grad_second, grad_alpha, grad_beta = _closing_numbers_backward(
        grad_numbers, *ctx.saved_tensors, ctx.gamma, ctx.from_layouts
    )
    if ctx.from_layouts:
        second = ctx.saved_tensors[3]
        of_second = -grad_first.to(second.dtype) if ctx.needs_input_grad[1] else None
    else:
        of_second = grad_second
    return grad_first, of_second, grad_alpha, grad_beta, None, None


_closing_numbers.register_autograd(_closing_autograd, setup_context=_setup_closing)
_closing_numbers_backward.register_autograd(tiles.first_order_only("closing_numbers_backward"))


def closing_reduction(
    easy: Tensor, hard: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E9's (‖α ⊙ R_easy‖_F, ‖β ⊙ R_hard‖_F, max α, min β), (B,) float32 each."""
    numbers, _ = _closing_numbers(easy, hard, alpha, beta, 0.0, False)
    easy_norm, hard_norm, highest, lowest = numbers.unbind(1)
    return easy_norm, hard_norm, highest, lowest


def layout_closing_reduction(
    layout: Tensor, real_layout: Tensor, alpha: Tensor, beta: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same four numbers straight from the layouts: R_easy and R_hard are never written."""
    numbers, _ = _closing_numbers(layout, real_layout, alpha, beta, gamma, True)
    easy_norm, hard_norm, highest, lowest = numbers.unbind(1)
    return easy_norm, hard_norm, highest, lowest
