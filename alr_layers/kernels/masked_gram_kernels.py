"""The kernels of E10-E11, forward and backward, for any number of channels and for a few.

Features lie as (BLOCK_D channels, BLOCK_N regions). The Gram matrix of x = M h is the sum over
regions of (M² h) hᵀ, which leaves one factor as it is stored.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

from alr_layers.kernels.products import as_factor, wide_product
from alr_layers.kernels.tiles import norm_slope, place_of, read_tile, write_tile


@triton.jit
def _features(base, strides, b, d, n, dim, regions, width, FLAT: tl.constexpr, AS: tl.constexpr):
    """The tile (d, n) of h as it goes into products."""
    mask = (d < dim)[:, None] & (n < regions)[None, :]
    place = place_of(base, strides, b, d, n, width, FLAT)
    return as_factor(tl.load(place, mask=mask, other=0.0), AS)


@triton.jit
def _mask(masks, b, n, regions):
    """M of regions n as a row."""
    return tl.load(masks + b * regions + n, mask=n < regions, other=0.0)[None, :]


@triton.jit(do_not_specialize=["splits", "tiles_per_split"])
def difference_forward_kernel(
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
    """Sum one tile (i, j) of the upper triangle of the Gram matrices over one split."""
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
        m = _mask(masks, b, n, regions)
        real_m = _mask(real_masks, b, n, regions)
        h = _features(features, features_strides, b, rows, n, dim, regions, width, FLAT, PRECISION)
        real_h = _features(
            real_features, real_features_strides, b, rows, n, dim, regions, width, FLAT, PRECISION
        )
        x = h.to(tl.float32) * m
        y = real_h.to(tl.float32) * real_m
        if i == j:
            square += tl.sum((x - y) * (x - y), 0)
        if PIECES > 1:
            h = _features(
                features, features_strides, b, columns, n, dim, regions, width, FLAT, PRECISION
            )
            real_h = _features(
                real_features, real_features_strides, b, columns, n, dim, regions, width, FLAT,
                PRECISION,
            )  # fmt: skip
        gram = wide_product(x * m, tl.trans(h), gram, PRECISION, True)
        gram = wide_product(-y * real_m, tl.trans(real_h), gram, PRECISION, True)

    slot = b * splits + split
    if i == j:
        tl.store(squares + slot * PIECES + i, tl.sum(square))
    grams += slot * dim * dim
    inside = (rows < dim)[:, None] & (columns < dim)[None, :]
    tl.store(grams + rows[:, None] * dim + columns[None, :], gram, mask=inside)
    if i != j:
        mirrored = grams + columns[None, :] * dim + rows[:, None]
        tl.store(mirrored, gram, mask=inside)


@triton.jit
def _both_sides(grad_gram, d, e, dim):
    """The tile (d, e) of dG + dGᵀ."""
    here = (d < dim)[:, None] & (e < dim)[None, :]
    rows = tl.load(grad_gram + d[:, None] * dim + e[None, :], mask=here, other=0.0)
    columns = tl.load(grad_gram + e[None, :] * dim + d[:, None], mask=here, other=0.0)
    return rows + columns


@triton.jit
def _spread(
    grad_mask,
    layout,
    layout_strides,
    masks,
    grad_layout,
    grad_layout_strides,
    b,
    n,
    word_count,
    regions,
    width,
    FLAT: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Give dM in equal parts to the words that attain the maximum."""
    t = tl.arange(0, BLOCK_T).to(tl.int64)
    mask = (t < word_count)[:, None] & (n < regions)[None, :]
    theta = read_tile(layout, layout_strides, b, t, n, width, mask, FLAT)
    attained = tl.where(mask & (theta == _mask(masks, b, n, regions)), 1.0, 0.0)
    out = attained * (grad_mask / tl.sum(attained, 0))[None, :]
    write_tile(grad_layout, grad_layout_strides, b, t, n, width, out, mask, FLAT)


@triton.jit(do_not_specialize=["word_count", "tiles_per_split"])
def difference_backward_kernel(
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
    tiles_per_split,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Any number of channels: dG + dGᵀ and h are read again for every piece of the gradient."""
    b = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK_D).to(tl.int64)
    slope = norm_slope(tl.load(grad_distance + b), tl.load(distance + b))
    grad_gram += b * dim * dim
    first = tl.program_id(0) * tiles_per_split
    for tile in range(first, min(first + tiles_per_split, tl.cdiv(regions, BLOCK_N))):
        n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        m = _mask(masks, b, n, regions)
        real_m = _mask(real_masks, b, n, regions)
        grad_mask = tl.zeros((BLOCK_N,), tl.float32)
        for start in range(0, dim, BLOCK_D):
            d = start + channel
            grad_x = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
            for other in range(0, dim, BLOCK_D):
                e = other + channel
                both = sign * _both_sides(grad_gram, d, e, dim)
                h = _features(
                    features, features_strides, b, e, n, dim, regions, width, FLAT, PRECISION
                )
                grad_x = wide_product(both, h, grad_x, PRECISION, False)
            mask = (d < dim)[:, None] & (n < regions)[None, :]
            h = read_tile(features, features_strides, b, d, n, width, mask, FLAT)
            real_h = read_tile(real_features, real_features_strides, b, d, n, width, mask, FLAT)
            grad_x = grad_x * m + slope * (h * m - real_h * real_m)
            out = grad_x * m
            write_tile(grad_features, grad_features_strides, b, d, n, width, out, mask, FLAT)
            grad_mask += tl.sum(grad_x * h, 0)
        if SOFT:
            _spread(
                grad_mask, layout, layout_strides, masks, grad_layout, grad_layout_strides, b, n,
                word_count, regions, width, FLAT, BLOCK_T,
            )  # fmt: skip


@triton.jit(do_not_specialize=["word_count", "tiles_per_split"])
def small_difference_backward_kernel(
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
    tiles_per_split,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """All channels in one piece: dG + dGᵀ is read once for many tiles, h and h* once for each."""
    b = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    slope = norm_slope(tl.load(grad_distance + b), tl.load(distance + b))
    both = sign * _both_sides(grad_gram + b * dim * dim, d, d, dim)
    zero = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
    first = tl.program_id(0) * tiles_per_split
    for tile in range(first, min(first + tiles_per_split, tl.cdiv(regions, BLOCK_N))):
        n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        m = _mask(masks, b, n, regions)
        real_m = _mask(real_masks, b, n, regions)
        h = _features(features, features_strides, b, d, n, dim, regions, width, FLAT, PRECISION)
        mask = (d < dim)[:, None] & (n < regions)[None, :]
        real_h = read_tile(real_features, real_features_strides, b, d, n, width, mask, FLAT)
        grad_x = wide_product(both, h, zero, PRECISION, False) * m
        h = h.to(tl.float32)
        grad_x += slope * (h * m - real_h * real_m)
        out = grad_x * m
        write_tile(grad_features, grad_features_strides, b, d, n, width, out, mask, FLAT)
        if SOFT:
            _spread(
                tl.sum(grad_x * h, 0), layout, layout_strides, masks, grad_layout,
                grad_layout_strides, b, n, word_count, regions, width, FLAT, BLOCK_T,
            )  # fmt: skip
