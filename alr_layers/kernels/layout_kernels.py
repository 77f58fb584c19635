"""The kernels of E1-E3, forward and backward, for any size and for small ones.

A tile is BLOCK_N regions against BLOCK_T words, with the channels in pieces of BLOCK_D. Where one
piece holds all channels nothing is read twice, and the gradient of ŵ stays in registers.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

from alr_layers.kernels.products import as_factor, stored_product, transposed, wide_product
from alr_layers.kernels.tiles import region_offset

# They change with the number of words. Named one by one: in a tuple Triton specialises whatever it
# is told.
WORDS_STRIDES = ("words_stride_b", "words_stride_d", "words_stride_t")


@triton.jit
def _place(base, strides, n, d, width, FLAT: tl.constexpr):
    """Where the tile (n, d) of one sample lies: regions by channels (or words)."""
    return base + region_offset(n, strides, width, FLAT)[:, None] + d[None, :] * strides[1]


@triton.jit
def _factor(base, strides, n, d, width, mask, FLAT: tl.constexpr, PRECISION: tl.constexpr):
    """The tile (n, d) as it goes into products, 0 where masked."""
    tile = tl.load(_place(base, strides, n, d, width, FLAT), mask=mask, other=0.0)
    if PRECISION == "pieces":
        # Without this Triton moves the split behind shared memory, and does it for every product.
        tile = tl.where(mask, tile, 0.0)
    return as_factor(tile, PRECISION)


@triton.jit
def _words(words, strides, d, t, dim, real, PRECISION: tl.constexpr):
    """ŵ of one sample as (BLOCK_D, BLOCK_T), 0 at padded words whatever stands there."""
    mask = (d < dim)[:, None] & real[None, :]
    place = words + d[:, None] * strides[1] + t[None, :] * strides[2]
    return as_factor(tl.load(place, mask=mask, other=0.0), PRECISION)


@triton.jit
def _softmax(scores, real):
    """Over the real words of each row; 0 at the others."""
    scores = tl.where(real[None, :], scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = tl.where(real[None, :], weights, 0.0)
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit(do_not_specialize=["word_count", *WORDS_STRIDES])
def layout_forward_kernel(
    features,
    features_strides,
    words,
    words_stride_b,
    words_stride_d,
    words_stride_t,
    lengths,
    lengths_strides,
    layout,
    layout_strides,
    context,
    context_strides,
    dim,
    word_count,
    regions,
    width,
    FLAT: tl.constexpr,
    WITH_CONTEXT: tl.constexpr,
    PRECISION: tl.constexpr,
    ONE_PIECE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Write Θ, and q if WITH_CONTEXT, of one tile of one sample."""
    words_strides = (words_stride_b, words_stride_d, words_stride_t)
    b = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.arange(0, BLOCK_T).to(tl.int64)
    channel = tl.arange(0, BLOCK_D).to(tl.int64)
    inside = (n < regions)[:, None]
    length = tl.load(lengths + b * lengths_strides[0])
    real = (t < length) & (t < word_count)
    features += b * features_strides[0]
    words += b * words_strides[0]
    context += b * context_strides[0]

    scores = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    w = _words(words, words_strides, channel, t, dim, real, PRECISION)
    for start in range(0, BLOCK_D if ONE_PIECE else dim, BLOCK_D):
        d = start + channel
        here = inside & (d < dim)[None, :]
        h = _factor(features, features_strides, n, d, width, here, FLAT, PRECISION)
        if not ONE_PIECE:
            w = _words(words, words_strides, d, t, dim, real, PRECISION)
        scores = stored_product(h, w, scores, PRECISION)
    theta = _softmax(scores, real)

    place = _place(layout + b * layout_strides[0], layout_strides, n, t, width, FLAT)
    tl.store(place, theta, mask=inside & (t < word_count)[None, :])
    if WITH_CONTEXT:
        theta = as_factor(theta, PRECISION)
        for start in range(0, BLOCK_D if ONE_PIECE else dim, BLOCK_D):
            d = start + channel
            if not ONE_PIECE:
                w = _words(words, words_strides, d, t, dim, real, PRECISION)
            q = wide_product(theta, transposed(w, PRECISION), None, PRECISION, False)
            out = _place(context, context_strides, n, d, width, FLAT)
            tl.store(out, q, mask=inside & (d < dim)[None, :])


@triton.jit
def _score_gradient(scores, grad_theta, real, known):
    """(Θ, gradient of the scores) of a tile."""
    theta = _softmax(scores, real)
    centred = grad_theta - tl.sum(theta * grad_theta, 1)[:, None]
    return theta, tl.where(known, theta * centred, 0.0)


@triton.jit(do_not_specialize=["word_count", *WORDS_STRIDES, "splits", "tiles_per_split"])
def layout_backward_kernel(
    grad_layout,
    grad_layout_strides,
    grad_context,
    grad_context_strides,
    features,
    features_strides,
    words,
    words_stride_b,
    words_stride_d,
    words_stride_t,
    lengths,
    lengths_strides,
    grad_features,
    grad_features_strides,
    partial_words,
    dim,
    word_count,
    regions,
    width,
    splits,
    tiles_per_split,
    FLAT: tl.constexpr,
    HAS_GRAD_LAYOUT: tl.constexpr,
    HAS_GRAD_CONTEXT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Any number of channels: the sums over regions lie in memory, added to by one program."""
    words_strides = (words_stride_b, words_stride_d, words_stride_t)
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    t = tl.arange(0, BLOCK_T).to(tl.int64)
    channel = tl.arange(0, BLOCK_D).to(tl.int64)
    length = tl.load(lengths + b * lengths_strides[0])
    real = (t < length) & (t < word_count)
    features += b * features_strides[0]
    grad_features += b * grad_features_strides[0]
    words += b * words_strides[0]
    grad_layout += b * grad_layout_strides[0]
    grad_context += b * grad_context_strides[0]
    partial_words += (b * splits + split) * dim * word_count
    first = split * tiles_per_split
    for tile in range(first, min(first + tiles_per_split, tl.cdiv(regions, BLOCK_N))):
        n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        inside = (n < regions)[:, None]
        known = inside & real[None, :]
        scores = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        grad_theta = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        if HAS_GRAD_LAYOUT:
            place = _place(grad_layout, grad_layout_strides, n, t, width, FLAT)
            grad_theta = tl.load(place, mask=known, other=0.0).to(tl.float32)
        for start in range(0, dim, BLOCK_D):
            d = start + channel
            here = inside & (d < dim)[None, :]
            w = _words(words, words_strides, d, t, dim, real, PRECISION)
            h = _factor(features, features_strides, n, d, width, here, FLAT, PRECISION)
            scores = stored_product(h, w, scores, PRECISION)
            if HAS_GRAD_CONTEXT:
                g = _factor(grad_context, grad_context_strides, n, d, width, here, FLAT, PRECISION)
                grad_theta = stored_product(g, w, grad_theta, PRECISION)

        theta, grad_s = _score_gradient(scores, grad_theta, real, known)
        theta = as_factor(theta, PRECISION)
        grad_s = as_factor(grad_s, PRECISION)
        # The tile comes a second time from the cache: kept in registers, it would spill from them.
        for start in range(0, dim, BLOCK_D):
            d = start + channel
            here = inside & (d < dim)[None, :]
            w = _words(words, words_strides, d, t, dim, real, PRECISION)
            grad_h = wide_product(grad_s, transposed(w, PRECISION), None, PRECISION, False)
            out = _place(grad_features, grad_features_strides, n, d, width, FLAT)
            tl.store(out, grad_h, mask=here)
            own = partial_words + d[None, :] * word_count + t[:, None]
            kept = (t < word_count)[:, None] & (d < dim)[None, :]
            grad_w = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
            if tile != first:
                grad_w = tl.load(own, mask=kept, other=0.0)
            h = _factor(features, features_strides, n, d, width, here, FLAT, PRECISION)
            grad_w = wide_product(transposed(grad_s, PRECISION), h, grad_w, PRECISION, False)
            if HAS_GRAD_CONTEXT:
                g = _factor(grad_context, grad_context_strides, n, d, width, here, FLAT, PRECISION)
                grad_w = wide_product(transposed(theta, PRECISION), g, grad_w, PRECISION, False)
            tl.store(own, grad_w, mask=kept)
        # What one thread wrote of the partial sums, another may read for the next tile.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["word_count", *WORDS_STRIDES, "splits", "tiles_per_split"])
def small_layout_backward_kernel(
    grad_layout,
    grad_layout_strides,
    grad_context,
    grad_context_strides,
    features,
    features_strides,
    words,
    words_stride_b,
    words_stride_d,
    words_stride_t,
    lengths,
    lengths_strides,
    grad_features,
    grad_features_strides,
    partial_words,
    dim,
    word_count,
    regions,
    width,
    splits,
    tiles_per_split,
    FLAT: tl.constexpr,
    HAS_GRAD_LAYOUT: tl.constexpr,
    HAS_GRAD_CONTEXT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """All channels in one piece: ŵ and its gradient stay in registers, the tiles if they fit."""
    # Two float32 tiles would spill: they come a second time, from the cache. Pieces lie in shared
    # memory.
    READ_AGAIN: tl.constexpr = PRECISION == "ieee"
    words_strides = (words_stride_b, words_stride_d, words_stride_t)
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    t = tl.arange(0, BLOCK_T).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    length = tl.load(lengths + b * lengths_strides[0])
    real = (t < length) & (t < word_count)
    features += b * features_strides[0]
    grad_features += b * grad_features_strides[0]
    grad_layout += b * grad_layout_strides[0]
    grad_context += b * grad_context_strides[0]
    partial_words += (b * splits + split) * dim * word_count
    w = _words(words + b * words_strides[0], words_strides, d, t, dim, real, PRECISION)
    grad_w = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    first = split * tiles_per_split
    for tile in range(first, min(first + tiles_per_split, tl.cdiv(regions, BLOCK_N))):
        n = (tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        inside = (n < regions)[:, None]
        known = inside & real[None, :]
        here = inside & (d < dim)[None, :]
        h = _factor(features, features_strides, n, d, width, here, FLAT, PRECISION)
        scores = stored_product(h, w, None, PRECISION)
        grad_theta = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        if HAS_GRAD_LAYOUT:
            place = _place(grad_layout, grad_layout_strides, n, t, width, FLAT)
            grad_theta = tl.load(place, mask=known, other=0.0).to(tl.float32)
        if HAS_GRAD_CONTEXT:
            g = _factor(grad_context, grad_context_strides, n, d, width, here, FLAT, PRECISION)
            grad_theta = stored_product(g, w, grad_theta, PRECISION)
        theta, grad_s = _score_gradient(scores, grad_theta, real, known)
        grad_s = as_factor(grad_s, PRECISION)
        grad_h = wide_product(grad_s, transposed(w, PRECISION), None, PRECISION, False)
        out = _place(grad_features, grad_features_strides, n, d, width, FLAT)
        tl.store(out, grad_h, mask=here)
        if READ_AGAIN:
            h = _factor(features, features_strides, n, d, width, here, FLAT, PRECISION)
        grad_w = wide_product(transposed(grad_s, PRECISION), h, grad_w, PRECISION, False)
        if HAS_GRAD_CONTEXT:
            if READ_AGAIN:
                g = _factor(grad_context, grad_context_strides, n, d, width, here, FLAT, PRECISION)
            theta = transposed(as_factor(theta, PRECISION), PRECISION)
            grad_w = wide_product(theta, g, grad_w, PRECISION, False)
    kept = (t < word_count)[:, None] & (d < dim)[None, :]
    tl.store(partial_words + d[None, :] * word_count + t[:, None], grad_w, mask=kept)
