"""E1-E11 in plain PyTorch, in the paper's order: what every backend must compute.

The equations of ALR-GAN (arXiv 2304.06297), by the numbers used everywhere in this project; a star
marks what belongs to the real image, ŵ = U w are the words in feature space, K = max(D, T):

    E1   s[k,j] = <h[k], ŵ[j]>                                   score of region k and word j
    E2   θ[k,j] = softmax over the real words j of s[k,j]        layout Θ; 0 at padded words
    E3   q[k] = Σ_j θ[k,j] ŵ[j]                                  word context of a region
    E4   L_REC = mean |I* - G(E(I*))|                            reconstruction, h* = E(I*)
    E5   R = |Θ* - Θ|                                            residual
    E6   R_easy = R where R < γ, R_hard = R where R >= γ, else 0
    E7   R and h* zero-padded to K channels
    E8   α = φ_α(R_easy ⊙ h*), β = φ_β(R_hard ⊙ h*)              adaptive weights in (0, 1)
    E9   L_ALR = (‖α ⊙ R_easy‖ + ‖β ⊙ R_hard‖ + softplus(max α - min β)) / (N D)
    E10  L_PR = ‖M ⊙ h - M* ⊙ h*‖ / (N D)                        perception; M is the layout mask
    E11  L_SR = ‖G(M ⊙ h) - G(M* ⊙ h*)‖ / (N D), G(x) = x xᵀ     style
    E12  L_LVR = L_PR + L_SR
    E13  L_G_i = -E[log D_i(Î_i)] / 2 - E[log D_i(Î_i, s)] / 2   adversarial, of stage i
    E14  L_D_i = -(E[log D_i(I*_i)] + E[log(1 - D_i(Î_i))]
                 + E[log D_i(I*_i, s)] + E[log(1 - D_i(Î_i, s))]) / 2
    E15  L_G = Σ_i L_G_i + Σ_{i>=1} (L_ALR_i + λ1 L_REC_i + L_LVR_i) + λ2 L_DAMSM (+ the host's KL)
    E16  L_D = Σ_i L_D_i

‖·‖ is the Frobenius norm; every loss is the mean over the batch of a value per sample. E1-E3 and
E5-E11 are below, E4 and E12 in `alr_layers`, E13-E16 in the trainers.

Any device, any floating dtype, differentiable twice. Half precision inputs are computed in
float32 with autocast off, and tensors go back to their input dtype at the end.

Shapes: B samples, T words (right-padded), D feature channels, K weight channels, N = H * W regions.
    features, real_features    h, h*     (B, D, H, W)
    projected_words            ŵ = U w   (B, D, T)
    lengths                              (B,) integers, real words of each caption, in 1..T
    layout, real_layout        Θ, Θ*     (B, T, H, W)
    alpha, beta                α, β      (B, K, H, W), K >= T

These functions check nothing: `alr_layers.functional` does. NaN and Inf come out as NaN or Inf,
except that what stands in padded words never matters.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import threshold

from alr_layers.kernels.reductions import highest, lowest, sum_of_squares

P = ParamSpec("P")
R = TypeVar("R")


def _in_full_precision(op: Callable[P, R]) -> Callable[P, R]:
    """Run `op` with autocast off: its sums must not be rounded to the autocast dtype."""

    @wraps(op)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor), "the ops take their tensors by position"
        kind = first.device.type
        # The meta device knows no autocast; asking in general is not traceable on torch 2.11.
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return op(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return op(*args, **kwargs)

    return run


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def padding_mask(lengths: Tensor, words: int) -> Tensor:
    """(B, 1, T) bool, True at padded words."""
    return torch.arange(words, device=lengths.device) >= lengths[:, None, None]


def frobenius_norm(values: Tensor) -> Tensor:
    """‖·‖_F of each sample, (B, ...) -> (B,). Its gradient at 0 is 0 (our reading), never NaN."""
    squares = sum_of_squares(values)
    at_zero = squares == 0
    return squares.masked_fill(at_zero, 1).sqrt().masked_fill(at_zero, 0)


def _layout(features: Tensor, words: Tensor, padding: Tensor) -> Tensor:
    """Θ of E1-E2 as (B, T, N), straight from one batched product: no (B, N, T) score tensor."""
    bias = torch.zeros_like(padding, dtype=words.dtype).masked_fill(padding, -torch.inf)
    scores = torch.baddbmm(bias.transpose(1, 2), words.transpose(1, 2), features.flatten(2))
    return scores.softmax(1)


def _on_grid(values: Tensor, like: Tensor) -> Tensor:
    """(B, X, N) as (B, X, H, W), with the grid and the dtype of `like`."""
    return values.view(*values.shape[:2], *like.shape[2:]).to(like.dtype)


@_in_full_precision
def semantic_similarity(features: Tensor, projected_words: Tensor, lengths: Tensor) -> Tensor:
    """E1-E2: Θ, (B, T, H, W). Softmax over the real words of each region; 0 at padded words."""
    h, words = _widened(features, projected_words)
    padding = padding_mask(lengths, words.shape[2])
    layout = _layout(h, words.masked_fill(padding, 0), padding)
    return _on_grid(layout, features)


@_in_full_precision
def text_vision_matrix(layout: Tensor, projected_words: Tensor) -> Tensor:
    """E3: q[k] = Σ_j θ[k,j] ŵ[j], (B, D, H, W).

    A word with θ = 0 in every region is padding as far as this function can know: NaN or Inf there
    is left out, since 0 * NaN would spoil every region.
    """
    theta, words = _widened(layout.flatten(2), projected_words)
    absent = theta.detach().abs().amax(2)[:, None] == 0
    words = words.masked_fill(absent & ~words.isfinite(), 0)
    return _on_grid(torch.bmm(words, theta), layout)


@_in_full_precision
def layout_context(
    features: Tensor, projected_words: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """E1-E3: (context q, layout Θ), of shapes (B, D, H, W) and (B, T, H, W)."""
    h, words = _widened(features, projected_words)
    padding = padding_mask(lengths, words.shape[2])
    words = words.masked_fill(padding, 0)
    layout = _layout(h, words, padding)
    context = torch.bmm(words, layout)
    return _on_grid(context, features), _on_grid(layout, features)


def split_residual(layout: Tensor, real_layout: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """E5-E6: (R_easy, R_hard) of R = |Θ* - Θ|, (B, T, H, W) each, in at least float32.

    Easy is R < γ, hard is R >= γ; a NaN stays in both.
    """
    theta, real = _widened(layout, real_layout)
    residual = (real - theta).abs()
    # One pass instead of a mask and a fill: threshold() keeps what is above it, here -R > -γ.
    minus_easy = threshold(-residual, -gamma, 0.0)
    return -minus_easy, residual + minus_easy


@_in_full_precision
def gated_residual(
    layout: Tensor, real_layout: Tensor, real_features: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """E5-E8: (R_easy ⊙ h*, R_hard ⊙ h*), what φ_α and φ_β read.

    Of the K channels of E7 only the first L = min(T, D) can be other than zero (R is padded beyond
    T, h* beyond D); those are returned, (B, L, H, W), in the dtype of `real_features`.
    """
    live = min(layout.shape[1], real_features.shape[1])
    easy, hard = split_residual(layout[:, :live], real_layout[:, :live], gamma)
    h = real_features[:, :live]
    return (easy * h).to(h.dtype), (hard * h).to(h.dtype)


@_in_full_precision
def closing_reduction(
    easy: Tensor, hard: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four numbers of E9: (‖α ⊙ R_easy‖_F, ‖β ⊙ R_hard‖_F, max α, min β), (B,) each.

    float32, or float64 for float64. The norms touch the first T channels of α and β, since R is
    zero beyond; max and min run over all K * N entries.
    """
    easy, hard, alpha, beta = _widened(easy, hard, alpha, beta)
    words = easy.shape[1]
    easy_norm = frobenius_norm(alpha[:, :words] * easy)
    hard_norm = frobenius_norm(beta[:, :words] * hard)
    return easy_norm, hard_norm, highest(alpha), lowest(beta)


@_in_full_precision
def layout_closing_reduction(
    layout: Tensor, real_layout: Tensor, alpha: Tensor, beta: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`closing_reduction` of the residual of two layouts: the caller needs no R_easy, R_hard."""
    easy, hard = split_residual(layout, real_layout, gamma)
    return closing_reduction(easy, hard, alpha, beta)


def layout_mask(layout: Tensor, mask: str) -> Tensor:
    """M_Θ, (B, 1, H, W), in the dtype of `layout`; our readings.

    "soft" is max_j θ[k,j] (tied words share the gradient evenly). "hard" is 1 where that reaches
    the sample's mean of it, else 0; it has no gradient, and a layout with NaN gives NaN.
    """
    peak = layout.amax(1, keepdim=True)
    if mask == "soft":
        return peak
    (wide,) = _widened(peak.detach())
    mean = wide.mean((2, 3), keepdim=True)
    return ((wide >= mean) + 0 * mean).to(layout.dtype)


@_in_full_precision
def masked_difference(
    features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor, mask: str
) -> tuple[Tensor, Tensor]:
    """E10 and E11: (‖M_Θ ⊙ h - M_Θ* ⊙ h*‖_F, G(M_Θ ⊙ h) - G(M_Θ* ⊙ h*)), (B,) and (B, D, D).

    G(x) = x xᵀ. float32, or float64 for float64.
    """
    h, real_h, theta, real_theta = _widened(features, real_features, layout, real_layout)
    seen = (layout_mask(theta, mask) * h).flatten(2)
    real_seen = (layout_mask(real_theta, mask) * real_h).flatten(2)
    gram = torch.bmm(seen, seen.transpose(1, 2))
    real_gram = torch.bmm(real_seen, real_seen.transpose(1, 2))
    return frobenius_norm(seen - real_seen), gram - real_gram
