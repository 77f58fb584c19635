"""E1-E3 fused: h and ŵ are read once, Θ and q written once, no score tensor between them.

Forward, per tile of regions: s = h ŵ in pieces of channels, the softmax in registers, q = θ ŵᵀ.
Backward computes Θ again from h and ŵ, which it needs anyway, and which is more exact than the
stored Θ in half precision. The gradient of ŵ is summed over regions in two stages: each program
sums its tiles into a buffer of its own, the buffers are then added in a fixed order.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alr_layers.kernels import tiles
from alr_layers.kernels.tiles import region_offset


@triton.jit
def _load(base, strides, rows, columns, mask):
    """A tile of base[rows, columns] (broadcast offsets) in float32."""
    return tl.load(base + rows + columns * strides[1], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _words(words, strides, d, t, dim, real):
    """ŵ of one sample as (BLOCK_D, BLOCK_T), 0 at padded words whatever stands there."""
    mask = (d < dim)[:, None] & real[None, :]
    place = words + d[:, None] * strides[1] + t[None, :] * strides[2]
    return tl.load(place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _softmax(scores, real):
    """Over the real words of each row; 0 at the others."""
    scores = tl.where(real[None, :], scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = tl.where(real[None, :], weights, 0.0)
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit(do_not_specialize=["word_count"])
def _layout_forward_kernel(
    features,
    features_strides,
    words,
    words_strides,
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
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.arange(0, BLOCK_T).to(tl.int64)
    inside = (n < regions)[:, None]
    length = tl.load(lengths + b * lengths_strides[0])
    real = (t < length) & (t < word_count)

    features += b * features_strides[0]
    words += b * words_strides[0]
    h_rows = region_offset(n, features_strides, width, FLAT)[:, None]
    scores = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D).to(tl.int64)
        h = _load(features, features_strides, h_rows, d[None, :], inside & (d < dim)[None, :])
        w = _words(words, words_strides, d, t, dim, real)
        scores = tl.dot(h, w, scores, input_precision=PRECISION)
    theta = _softmax(scores, real)

    rows = region_offset(n, layout_strides, width, FLAT)[:, None]
    place = layout + b * layout_strides[0] + rows + t[None, :] * layout_strides[1]
    tl.store(place, theta, mask=inside & (t < word_count)[None, :])
    if WITH_CONTEXT:
        rows = region_offset(n, context_strides, width, FLAT)[:, None]
        for start in range(0, dim, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D).to(tl.int64)
            w = _words(words, words_strides, d, t, dim, real)
            q = tl.dot(theta, tl.trans(w), input_precision=PRECISION)
            q_place = context + b * context_strides[0] + rows + d[None, :] * context_strides[1]
            tl.store(q_place, q, mask=inside & (d < dim)[None, :])


@triton.jit(do_not_specialize=["word_count", "splits", "tiles_per_split"])
def _layout_backward_kernel(
    grad_layout,
    grad_layout_strides,
    grad_context,
    grad_context_strides,
    features,
    features_strides,
    words,
    words_strides,
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
        h_rows = region_offset(n, features_strides, width, FLAT)[:, None]
        q_rows = region_offset(n, grad_context_strides, width, FLAT)[:, None]
        out_rows = region_offset(n, grad_features_strides, width, FLAT)[:, None]
        scores = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        grad_theta = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        if HAS_GRAD_LAYOUT:
            rows = region_offset(n, grad_layout_strides, width, FLAT)[:, None]
            grad_theta = _load(grad_layout, grad_layout_strides, rows, t[None, :], known)
        for start in range(0, dim, BLOCK_D):
            d = start + channel
            here = inside & (d < dim)[None, :]
            w = _words(words, words_strides, d, t, dim, real)
            h = _load(features, features_strides, h_rows, d[None, :], here)
            scores = tl.dot(h, w, scores, input_precision=PRECISION)
            if HAS_GRAD_CONTEXT:
                grad_q = _load(grad_context, grad_context_strides, q_rows, d[None, :], here)
                grad_theta = tl.dot(grad_q, w, grad_theta, input_precision=PRECISION)

        theta = _softmax(scores, real)
        centred = grad_theta - tl.sum(theta * grad_theta, 1)[:, None]
        grad_s = tl.where(known, theta * centred, 0.0)
        # The tile comes a second time from the cache: kept in registers, it would spill from them.
        for start in range(0, dim, BLOCK_D):
            d = start + channel
            here = inside & (d < dim)[None, :]
            w = _words(words, words_strides, d, t, dim, real)
            grad_h = tl.dot(grad_s, tl.trans(w), input_precision=PRECISION)
            out = grad_features + out_rows + d[None, :] * grad_features_strides[1]
            tl.store(out, grad_h, mask=here)
            own = partial_words + d[:, None] * word_count + t[None, :]
            kept = (d < dim)[:, None] & (t < word_count)[None, :]
            grad_w = tl.zeros((BLOCK_D, BLOCK_T), tl.float32)
            if tile != first:
                grad_w = tl.load(own, mask=kept, other=0.0)
            h = _load(features, features_strides, h_rows, d[None, :], here)
            grad_w = tl.dot(tl.trans(h), grad_s, grad_w, input_precision=PRECISION)
            if HAS_GRAD_CONTEXT:
                grad_q = _load(grad_context, grad_context_strides, q_rows, d[None, :], here)
                grad_w = tl.dot(tl.trans(grad_q), theta, grad_w, input_precision=PRECISION)
            tl.store(own, grad_w, mask=kept)
        # What one thread wrote of the partial sums, another may read for the next tile.
        tl.debug_barrier()


def _empty_layout(features: Tensor, words: Tensor) -> Tensor:
    return features.new_empty(features.shape[0], words.shape[2], *features.shape[2:])


def _forward(
    features: Tensor, words: Tensor, lengths: Tensor, with_context: bool
) -> tuple[Tensor, Tensor]:
    """(context, layout); the context is empty where it is not wanted."""
    batch, dim, height, width = features.shape
    count = words.shape[2]
    layout = _empty_layout(features, words)
    context = torch.empty_like(features) if with_context else features.new_empty(0, 1, 1, 1)
    block_n = tiles.block_regions(count)
    grid = (triton.cdiv(height * width, block_n), batch)
    with tiles.on_device(features):
        _layout_forward_kernel[grid](
            **tiles.with_strides(
                features=features, words=words, lengths=lengths, layout=layout, context=context
            ),
            dim=dim,
            word_count=count,
            regions=height * width,
            width=width,
            FLAT=tiles.is_flat(features, layout, context),
            WITH_CONTEXT=with_context,
            PRECISION=tiles.dot_precision(features, words),
            BLOCK_N=block_n,
            BLOCK_D=tiles.BLOCK_D,
            BLOCK_T=tiles.block_words(count),
            num_warps=tiles.warps(count),
            num_stages=1,
        )
    return context, layout


def _backward(
    grad_context: Tensor | None,
    grad_layout: Tensor | None,
    features: Tensor,
    words: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    batch, dim, height, width = features.shape
    count = words.shape[2]
    grad_features = torch.empty_like(features)
    used = [grad for grad in (grad_context, grad_layout) if grad is not None]
    block_n = tiles.block_regions(count)
    cuts = triton.cdiv(height * width, block_n)
    splits = tiles.split_count(cuts, batch)
    partial = features.new_empty(batch, splits, dim, count, dtype=torch.float32)
    with tiles.on_device(features):
        _layout_backward_kernel[(splits, batch)](
            **tiles.with_strides(
                # What is absent is never read; any tensor may stand for it.
                grad_layout=features if grad_layout is None else grad_layout,
                grad_context=features if grad_context is None else grad_context,
                features=features,
                words=words,
                lengths=lengths,
                grad_features=grad_features,
            ),
            partial_words=partial,
            dim=dim,
            word_count=count,
            regions=height * width,
            width=width,
            splits=splits,
            tiles_per_split=triton.cdiv(cuts, splits),
            FLAT=tiles.is_flat(features, grad_features, *used),
            HAS_GRAD_LAYOUT=grad_layout is not None,
            HAS_GRAD_CONTEXT=grad_context is not None,
            PRECISION=tiles.dot_precision(features, words),
            BLOCK_N=block_n,
            BLOCK_D=tiles.BLOCK_D,
            BLOCK_T=tiles.block_words(count),
            num_warps=tiles.warps(count),
            num_stages=1,
        )
    return grad_features, partial.sum(1).to(words.dtype)


@torch.library.custom_op("alr_layers::layout_backward", mutates_args=())
def _layout_backward(
    grad_context: Tensor | None,
    grad_layout: Tensor | None,
    features: Tensor,
    projected_words: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    return _backward(grad_context, grad_layout, features, projected_words, lengths)


@_layout_backward.register_fake
def _layout_backward_fake(
    grad_context: Tensor | None,
    grad_layout: Tensor | None,
    features: Tensor,
    projected_words: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), projected_words.new_empty(projected_words.shape)


@torch.library.custom_op("alr_layers::layout_context", mutates_args=())
def _layout_context(
    features: Tensor, projected_words: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    return _forward(features, projected_words, lengths, with_context=True)


@_layout_context.register_fake
def _layout_context_fake(
    features: Tensor, projected_words: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), _empty_layout(features, projected_words)


@torch.library.custom_op("alr_layers::semantic_similarity", mutates_args=())
def _semantic_similarity(features: Tensor, projected_words: Tensor, lengths: Tensor) -> Tensor:
    return _forward(features, projected_words, lengths, with_context=False)[1]


@_semantic_similarity.register_fake
def _semantic_similarity_fake(features: Tensor, projected_words: Tensor, lengths: Tensor) -> Tensor:
    return _empty_layout(features, projected_words)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _layout_context_autograd(
    ctx: Any, grad_context: Tensor | None, grad_layout: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_context is None and grad_layout is None:
        return None, None, None
    return *_layout_backward(grad_context, grad_layout, *ctx.saved_tensors), None


def _semantic_similarity_autograd(
    ctx: Any, grad_layout: Tensor | None
) -> tuple[Tensor | None, ...]:
    return _layout_context_autograd(ctx, None, grad_layout)


_layout_context.register_autograd(_layout_context_autograd, setup_context=_setup)
_semantic_similarity.register_autograd(_semantic_similarity_autograd, setup_context=_setup)
_layout_backward.register_autograd(tiles.first_order_only("layout_backward"))


def semantic_similarity(features: Tensor, projected_words: Tensor, lengths: Tensor) -> Tensor:
    """E1-E2: Θ, (B, T, H, W). First order only: see the reference for second derivatives."""
    layout: Tensor = _semantic_similarity(features, projected_words, lengths)
    return layout


def layout_context(
    features: Tensor, projected_words: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """E1-E3 in one pass: (context q, layout Θ), (B, D, H, W) and (B, T, H, W).

    First order only: see the reference for second derivatives.
    """
    context, layout = _layout_context(features, projected_words, lengths)
    return context, layout
