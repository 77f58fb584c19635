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
from torch import Tensor

from alr_layers.kernels import tiles
from alr_layers.kernels.layout_kernels import (
    WORDS_STRIDES,
    layout_backward_kernel,
    layout_forward_kernel,
    small_layout_backward_kernel,
)


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
    tile = tiles.layout_tile(dim, count, tiles.arithmetic(features, words), forward=True)
    grid = (triton.cdiv(height * width, tile.block_n), batch)
    with tiles.on_device(features):
        layout_forward_kernel[grid](
            **tiles.with_strides(
                features=features, lengths=lengths, layout=layout, context=context
            ),
            words=words,
            **dict(zip(WORDS_STRIDES, words.stride(), strict=True)),
            dim=dim,
            word_count=count,
            regions=height * width,
            width=width,
            FLAT=tiles.is_flat(features, layout, context),
            WITH_CONTEXT=with_context,
            PRECISION=tile.precision,
            ONE_PIECE=tile.block_d >= dim,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            BLOCK_T=tiles.block_words(count),
            num_warps=tile.warps,
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
    tile = tiles.layout_tile(dim, count, tiles.arithmetic(features, words), forward=False)
    small = tile.block_d >= dim and count <= tiles.FEW_WORDS
    kernel = small_layout_backward_kernel if small else layout_backward_kernel
    cuts = triton.cdiv(height * width, tile.block_n)
    splits = tiles.split_count(cuts, batch)
    partial = features.new_empty(batch, splits, dim, count, dtype=torch.float32)
    with tiles.on_device(features):
        kernel[(splits, batch)](
            **tiles.with_strides(
                # What is absent is never read; any tensor may stand for it.
                grad_layout=features if grad_layout is None else grad_layout,
                grad_context=features if grad_context is None else grad_context,
                features=features,
                lengths=lengths,
                grad_features=grad_features,
            ),
            words=words,
            **dict(zip(WORDS_STRIDES, words.stride(), strict=True)),
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
            PRECISION=tile.precision,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            BLOCK_T=tiles.block_words(count),
            num_warps=tile.warps,
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
