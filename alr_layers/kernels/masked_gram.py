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
import triton.language as tl
from torch import Tensor

from alr_layers.kernels import tiles
from alr_layers.kernels.masks import region_masks
from alr_layers.kernels.tiles import norm_slope, read_tile, write_tile

BLOCK_N = 16
BLOCK_BACKWARD = 64


def block_gram(channels: int) -> int:
    """BLOCK_D of a Gram tile: all channels if there are at most 64."""
    return max(16, min(64, int(triton.next_power_of_2(channels))))


@triton.jit
def _masked(features, strides, masks, b, d, n, dim, regions, width, FLAT: tl.constexpr):
    """(M h, h, M) of a tile (d, n), float32."""
    mask = (d < dim)[:, None] & (n < regions)[None, :]
    h = read_tile(features, strides, b, d, n, width, mask, FLAT)
    m = tl.load(masks + b * regions + n, mask=n < regions, other=0.0)
    return h * m[None, :], h, m


@triton.jit(do_not_specialize=["splits", "tiles_per_split"])
def _difference_forward_kernel(
    features,
    features_strides,
    real_features,
    real_features_strides,
    masks,
    real_masks,
    squares,
    grams,
    dim,
    regions,
    width,
    splits,
    tiles_per_split,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    PIECES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # One program sums one tile (i, j) of the upper triangle of the Gram matrices in one split.
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(2) // PIECES
    j = tl.program_id(2) % PIECES
    if i > j:
        return
    rows = (i * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    columns = (j * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    gram = tl.zeros((BLOCK_D, BLOCK_D), tl.float32)
    square = tl.zeros((BLOCK_N,), tl.float32)
    first = split * tiles_per_split
    for tile in range(first, min(first + tiles_per_split, tl.cdiv(regions, BLOCK_N))):
        n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        x, _, _ = _masked(features, features_strides, masks, b, rows, n, dim, regions, width, FLAT)
        y, _, _ = _masked(
            real_features, real_features_strides, real_masks, b, rows, n, dim, regions, width, FLAT
        )
        if i == j:
            square += tl.sum((x - y) * (x - y), 0)
        x_columns, y_columns = x, y
        if PIECES > 1:
            x_columns, _, _ = _masked(
                features, features_strides, masks, b, columns, n, dim, regions, width, FLAT
            )
            y_columns, _, _ = _masked(
                real_features, real_features_strides, real_masks, b, columns, n, dim, regions,
                width, FLAT,
            )  # fmt: skip
        gram = tl.dot(x, tl.trans(x_columns), gram, input_precision=PRECISION)
        gram = tl.dot(-y, tl.trans(y_columns), gram, input_precision=PRECISION)

    slot = b * splits + split
    if i == j:
        tl.store(squares + slot * PIECES + i, tl.sum(square))
    grams += slot * dim * dim
    inside = (rows < dim)[:, None] & (columns < dim)[None, :]
    tl.store(grams + rows[:, None] * dim + columns[None, :], gram, mask=inside)
    if i != j:
        mirrored = grams + columns[None, :] * dim + rows[:, None]
        tl.store(mirrored, gram, mask=inside)


@triton.jit(do_not_specialize=["word_count"])
def _difference_backward_kernel(
    grad_distance,
    distance,
    grad_gram,
    features,
    features_strides,
    real_features,
    real_features_strides,
    layout,
    layout_strides,
    masks,
    real_masks,
    grad_features,
    grad_features_strides,
    grad_layout,
    grad_layout_strides,
    sign,
    dim,
    word_count,
    regions,
    width,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_D).to(tl.int64)
    slope = norm_slope(tl.load(grad_distance + b), tl.load(distance + b))
    grad_gram += b * dim * dim
    grad_mask = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, dim, BLOCK_D):
        d = start + channel
        x, h, m = _masked(features, features_strides, masks, b, d, n, dim, regions, width, FLAT)
        y, _, _ = _masked(
            real_features, real_features_strides, real_masks, b, d, n, dim, regions, width, FLAT
        )
        grad_x = slope * (x - y)
        for other in range(0, dim, BLOCK_D):
            e = other + channel
            here = (d < dim)[:, None] & (e < dim)[None, :]
            rows = tl.load(grad_gram + d[:, None] * dim + e[None, :], mask=here, other=0.0)
            columns = tl.load(grad_gram + e[None, :] * dim + d[:, None], mask=here, other=0.0)
            x_other, _, _ = _masked(
                features, features_strides, masks, b, e, n, dim, regions, width, FLAT
            )
            both = sign * (rows + columns)
            grad_x = tl.dot(both, x_other, grad_x, input_precision=PRECISION)
        mask = (d < dim)[:, None] & (n < regions)[None, :]
        out = grad_x * m[None, :]
        write_tile(grad_features, grad_features_strides, b, d, n, width, out, mask, FLAT)
        grad_mask += tl.sum(grad_x * h, 0)

    if SOFT:
        t = tl.arange(0, BLOCK_T).to(tl.int64)
        mask = (t < word_count)[:, None] & (n < regions)[None, :]
        theta = read_tile(layout, layout_strides, b, t, n, width, mask, FLAT)
        peak = tl.load(masks + b * regions + n, mask=n < regions, other=0.0)
        attained = tl.where(mask & (theta == peak[None, :]), 1.0, 0.0)
        out = attained * (grad_mask / tl.sum(attained, 0))[None, :]
        write_tile(grad_layout, grad_layout_strides, b, t, n, width, out, mask, FLAT)


@torch.library.custom_op("alr_layers::masked_difference", mutates_args=())
def _masked_difference(
    features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor, soft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, dim, height, width = features.shape
    regions = height * width
    masks, real_masks = region_masks(layout, real_layout, soft)
    block_d = block_gram(dim)
    pieces, cuts = triton.cdiv(dim, block_d), triton.cdiv(regions, BLOCK_N)
    splits = tiles.split_count(cuts, batch * pieces)
    squares = masks.new_empty(batch, splits, pieces)
    grams = masks.new_empty(batch, splits, dim, dim)
    with tiles.on_device(features):
        _difference_forward_kernel[(splits, batch, pieces * pieces)](
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
            PRECISION=tiles.dot_precision(features, real_features),
            PIECES=pieces,
            BLOCK_N=BLOCK_N,
            BLOCK_D=block_d,
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
    grad_layout = layout.new_empty(layout.shape if soft else (0, 1, 1, 1))
    block_n = BLOCK_BACKWARD if words <= 32 else BLOCK_BACKWARD // 2
    with tiles.on_device(features):
        _difference_backward_kernel[(triton.cdiv(height * width, block_n), batch)](
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
            FLAT=tiles.is_flat(features, real_features, layout, grad_features),
            PRECISION=tiles.dot_precision(features, real_features),
            SOFT=soft,
            BLOCK_N=block_n,
            BLOCK_D=tiles.BLOCK_D,
            BLOCK_T=tiles.block_words(words),
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
    grad_layout = layout.new_empty(layout.shape if soft else (0, 1, 1, 1))
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
