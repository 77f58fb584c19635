"""E1-E12 as stateless functions: they check their input, promote dtypes once, pick a backend.

B samples, T words (right-padded), D feature channels, K weight channels, H x W regions, N = H * W.
The public functions let gradients through to real layouts and features: detach those yourself to
make them targets, as the modules do by default. Losses are float32 scalars (float64 in, float64
out), means over the batch; an empty batch gives 0.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from alr_layers import _checks
from alr_layers.kernels import reference
from alr_layers.kernels.dispatch import resolve
from alr_layers.options import MASKS, NORMALIZATIONS, Backend, Mask, Normalization


def _promoted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype: every op sees one dtype."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def _batch_mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.shape[0], 1)


def _check_words(features: Tensor, projected_words: Tensor, lengths: Tensor) -> None:
    _checks.floating("features", features, "B, D, H, W")
    _checks.floating("projected_words", projected_words, "B, D, T")
    _checks.same_sizes("projected_words", projected_words, "features", features, "01", "B and D")
    _checks.same_device(features=features, projected_words=projected_words)
    _checks.caption_lengths(lengths, "projected_words", projected_words)


def _check_layouts(layout: Tensor, real_layout: Tensor) -> None:
    _checks.floating("layout", layout, "B, T, H, W")
    _checks.floating("real_layout", real_layout, "B, T, H, W")
    _checks.same_sizes("real_layout", real_layout, "layout", layout, "0123", "B, T and grid")
    _checks.same_device(layout=layout, real_layout=real_layout)


def _without_padding(name: str, layout: Tensor, lengths: Tensor | None) -> Tensor:
    """`layout` with nothing on padded words; mass there is an error where it is seen for free."""
    if lengths is None:
        return layout
    _checks.caption_lengths(lengths, name, layout, words=1)
    padding = reference.padding_mask(lengths, layout.shape[1]).transpose(1, 2)[..., None]
    _checks.nothing_at(name, layout, padding)
    return layout.masked_fill(padding, 0)


def semantic_similarity(
    features: Tensor, projected_words: Tensor, lengths: Tensor, *, backend: Backend | None = None
) -> Tensor:
    """The layout Θ, how much each region belongs to each word (E1-E2).

    The softmax runs over the real words of a region, as in AttnGAN (our reading; the description
    leaves the axis open). What stands in padded words does not matter, NaN included.

    Args:
        features: h, (B, D, H, W).
        projected_words: ŵ = U w, (B, D, T).
        lengths: (B,) integers in 1..T. Checked by value on CPU only: elsewhere a length of 0 gives
            NaN and one above T counts as T.
        backend: "auto", "reference" or "fused"; None follows `use_backend`. "reference" is the one
            that can be differentiated twice.

    Returns:
        (B, T, H, W) in [0, 1] in the dtype of `features`: 1 in sum over the real words, 0 at
        padded ones.

    Raises:
        ValueError: shapes or devices do not fit, or a length is out of range.
        TypeError: a dtype does not fit.

    Example:
        >>> import torch
        >>> features, words = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 3)
        >>> semantic_similarity(features, words, torch.tensor([2]))[0, :, 0, 0]
        tensor([0.5000, 0.5000, 0.0000])
    """
    _check_words(features, projected_words, lengths)
    h, words = _promoted(features, projected_words)
    layout: Tensor = resolve("semantic_similarity", (h, words, lengths), backend)(h, words, lengths)
    return layout.to(features.dtype)


def text_vision_matrix(
    layout: Tensor, projected_words: Tensor, *, backend: Backend | None = None
) -> Tensor:
    """The word context of every region, q[k] = Σ_j θ[k,j] ŵ[j] (E3).

    Args:
        layout: Θ, (B, T, H, W).
        projected_words: ŵ, (B, D, T). A word whose layout is 0 everywhere may hold NaN.
        backend: "auto", "reference" or "fused" (which raises: alone, E3 has no fused form).

    Returns:
        (B, D, H, W) in the dtype of `layout`.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: a dtype does not fit.
        FusedUnavailableError: "fused" is asked for by name.
    """
    _checks.floating("layout", layout, "B, T, H, W")
    _checks.floating("projected_words", projected_words, "B, D, T")
    _checks.same_sizes("projected_words", projected_words, "layout", layout, "0", "B")
    if projected_words.shape[2] != layout.shape[1]:
        raise ValueError(
            f"projected_words has shape {tuple(projected_words.shape)}, expected T ="
            f" {layout.shape[1]} words like layout of shape {tuple(layout.shape)}"
        )
    _checks.same_device(layout=layout, projected_words=projected_words)
    theta, words = _promoted(layout, projected_words)
    context: Tensor = resolve("text_vision_matrix", (theta, words), backend)(theta, words)
    return context.to(layout.dtype)


def layout_context(
    features: Tensor, projected_words: Tensor, lengths: Tensor, *, backend: Backend | None = None
) -> tuple[Tensor, Tensor]:
    """E1-E3 in one pass: (context, layout), arguments and errors as `semantic_similarity`."""
    _check_words(features, projected_words, lengths)
    h, words = _promoted(features, projected_words)
    op = resolve("layout_context", (h, words, lengths), backend)
    context, layout = op(h, words, lengths)
    return context.to(features.dtype), layout.to(features.dtype)


def alr_residual(layout: Tensor, real_layout: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    """Split R = |Θ* - Θ| into easy (R < γ) and hard (R >= γ) elements (E5-E6).

    Args:
        layout: Θ, (B, T, H, W).
        real_layout: Θ*, the same shape; detach it to make it a target.
        gamma: γ in [0, 1]. The paper gives no value; `ALRLoss` takes 0.1 (our reading).

    Returns:
        (easy, hard), (B, T, H, W) each, in the dtype of the input; easy + hard = R.

    Raises:
        ValueError: shapes or devices do not fit, or γ is outside [0, 1].
        TypeError: a dtype does not fit.
    """
    _check_layouts(layout, real_layout)
    theta, real = _promoted(layout, real_layout)
    easy, hard = reference.split_residual(theta, real, _checks.threshold(gamma))
    return easy.to(theta.dtype), hard.to(theta.dtype)


def _closing_terms(
    reduction: tuple[Tensor, Tensor, Tensor, Tensor], size: int, normalization: Normalization
) -> dict[str, Tensor]:
    """The three terms of E9 from its closing reduction; `size` is N * D."""
    easy_norm, hard_norm, highest, lowest = reduction
    paper = normalization == "paper"
    norm_divisor, order_divisor = (size, size) if paper else (math.sqrt(size), 1)
    return {
        "easy": _batch_mean(easy_norm) / norm_divisor,
        "hard": _batch_mean(hard_norm) / norm_divisor,
        "order": _batch_mean(softplus(highest - lowest)) / order_divisor,
    }


def alr_terms(
    layout: Tensor,
    real_layout: Tensor,
    real_features: Tensor,
    phi_easy: Callable[[Tensor], Tensor],
    phi_hard: Callable[[Tensor], Tensor],
    *,
    gamma: float,
    normalization: Normalization,
    detach_target: bool,
    backend: Backend | None,
    lengths: Tensor | None = None,
) -> dict[str, Tensor]:
    """E5-E9 from layouts to {"easy", "hard", "order"}; options as `ALRLoss`, which holds the φ."""
    _check_layouts(layout, real_layout)
    _checks.floating("real_features", real_features, "B, D, H, W")
    _checks.same_sizes("real_features", real_features, "layout", layout, "023", "B and grid")
    _checks.same_device(layout=layout, real_features=real_features)
    layout = _without_padding("layout", layout, lengths)
    real_layout = _without_padding("real_layout", real_layout, lengths)
    if detach_target:
        real_layout, real_features = real_layout.detach(), real_features.detach()
    theta, real, features = _promoted(layout, real_layout, real_features)
    gate = resolve("gated_residual", (theta, real, features), backend)
    easy, hard = gate(theta, real, features, gamma)
    # α and β stay as φ computes them, in half precision under autocast: the op widens in registers.
    alpha, beta = _promoted(phi_easy(easy), phi_hard(hard))
    close = resolve("layout_closing_reduction", (theta, real, alpha, beta), backend)
    reduction = close(theta, real, alpha, beta, gamma)
    return _closing_terms(reduction, real_features.shape[1:].numel(), normalization)


def alr_loss(
    easy: Tensor,
    hard: Tensor,
    alpha: Tensor,
    beta: Tensor,
    *,
    feature_dim: int,
    normalization: Normalization = "paper",
    backend: Backend | None = None,
) -> Tensor:
    """L_ALR = (‖α ⊙ R_easy‖_F + ‖β ⊙ R_hard‖_F + softplus(max α - min β)) / (N * D) (E9).

    R is zero beyond T channels, so the norms see the first T channels of α and β; max and min run
    over all K * N entries of a sample. The gradient of a norm at 0 is 0 (our reading): a sample
    without a hard element is common.

    Args:
        easy: R_easy, (B, T, H, W).
        hard: R_hard, the same shape.
        alpha: α, (B, K, H, W) with K >= T.
        beta: β, the shape of α.
        feature_dim: D, for the divisor.
        normalization: "paper" as printed; "rms" divides the norms by √(N * D) and the softplus by
            1, which makes stages of different size comparable (our reading).
        backend: "auto", "reference" or "fused".

    Returns:
        A scalar, the mean over the batch.

    Raises:
        ValueError: shapes or devices do not fit, or an option is unknown.
        TypeError: a dtype does not fit.
    """
    _checks.floating("easy", easy, "B, T, H, W")
    _checks.floating("hard", hard, "B, T, H, W")
    _checks.floating("alpha", alpha, "B, K, H, W")
    _checks.floating("beta", beta, "B, K, H, W")
    _checks.same_sizes("hard", hard, "easy", easy, "0123", "B, T and grid")
    _checks.same_sizes("alpha", alpha, "easy", easy, "023", "B and grid")
    _checks.same_sizes("beta", beta, "alpha", alpha, "0123", "B, K and grid")
    _checks.same_device(easy=easy, hard=hard, alpha=alpha, beta=beta)
    _checks.choice("normalization", normalization, NORMALIZATIONS)
    if alpha.shape[1] < easy.shape[1]:
        raise ValueError(
            f"alpha has K = {alpha.shape[1]} channels, expected at least the T = {easy.shape[1]}"
            f" words of easy"
        )
    size = _checks.count("feature_dim", feature_dim) * easy.shape[2] * easy.shape[3]
    tensors = (*_promoted(easy, hard), *_promoted(alpha, beta))
    reduction = resolve("closing_reduction", tensors, backend)(*tensors)
    terms = _closing_terms(reduction, size, normalization)
    return terms["easy"] + terms["hard"] + terms["order"]


def layout_mask(layout: Tensor, *, mask: Mask = "soft") -> Tensor:
    """Where the words lay claim to the image: the layout mask M_Θ (our readings).

    Args:
        layout: Θ, (B, T, H, W).
        mask: "soft" is max_j θ[k,j], high where one word clearly claims the region; "hard" is 1
            where that reaches the sample's mean of it, else 0, and carries no gradient.

    Returns:
        (B, 1, H, W) in the dtype of `layout`.

    Raises:
        ValueError: the shape does not fit or the mask is unknown.
        TypeError: the dtype does not fit.
    """
    _checks.floating("layout", layout, "B, T, H, W")
    return reference.layout_mask(layout, _checks.choice("mask", mask, MASKS))


def lvr_terms(
    features: Tensor,
    real_features: Tensor,
    layout: Tensor,
    real_layout: Tensor,
    *,
    mask: Mask,
    normalization: Normalization = "paper",
    detach_target: bool = False,
    backend: Backend | None,
    lengths: Tensor | None = None,
) -> dict[str, Tensor]:
    """E10 and E11 from one pass, {"perception", "style"}; options as `LVRLoss`."""
    _checks.floating("features", features, "B, D, H, W")
    _checks.floating("real_features", real_features, "B, D, H, W")
    _checks.same_sizes("real_features", real_features, "features", features, "0123", "shape")
    _check_layouts(layout, real_layout)
    _checks.same_sizes("layout", layout, "features", features, "023", "B and grid")
    _checks.same_device(features=features, real_features=real_features, layout=layout)
    _checks.choice("mask", mask, MASKS)
    _checks.choice("normalization", normalization, NORMALIZATIONS)
    layout = _without_padding("layout", layout, lengths)
    real_layout = _without_padding("real_layout", real_layout, lengths)
    if detach_target:
        real_features, real_layout = real_features.detach(), real_layout.detach()
    tensors = _promoted(features, real_features, layout, real_layout)
    distance, gram = resolve("masked_difference", tensors, backend)(*tensors, mask)
    size = features.shape[1] * features.shape[2] * features.shape[3]
    divisor = size if normalization == "paper" else math.sqrt(size)
    return {
        "perception": _batch_mean(distance) / divisor,
        "style": _batch_mean(reference.frobenius_norm(gram)) / size,
    }


def perception_refinement_loss(
    features: Tensor,
    real_features: Tensor,
    layout: Tensor,
    real_layout: Tensor,
    *,
    mask: Mask = "soft",
    normalization: Normalization = "paper",
    backend: Backend | None = None,
) -> Tensor:
    """L_PR = ‖M_Θ ⊙ h - M_Θ* ⊙ h*‖_F / (N * D) (E10).

    Args:
        features: h, (B, D, H, W).
        real_features: h*, the same shape; detach it, and Θ*, to make them targets.
        layout: Θ, (B, T, H, W).
        real_layout: Θ*, the same shape.
        mask: see `layout_mask`.
        normalization: "paper" as printed; "rms" divides by √(N * D) instead (our reading).
        backend: "auto", "reference" or "fused".

    Returns:
        A scalar, the mean over the batch; its gradient where h and h* agree is 0, not NaN.

    Raises:
        ValueError: shapes or devices do not fit, or an option is unknown.
        TypeError: a dtype does not fit.
    """
    tensors = (features, real_features, layout, real_layout)
    terms = lvr_terms(*tensors, mask=mask, normalization=normalization, backend=backend)
    return terms["perception"]


def style_refinement_loss(
    features: Tensor,
    real_features: Tensor,
    layout: Tensor,
    real_layout: Tensor,
    *,
    mask: Mask = "soft",
    backend: Backend | None = None,
) -> Tensor:
    """L_SR = ‖G(M_Θ ⊙ h) - G(M_Θ* ⊙ h*)‖_F / (N * D), G(x) = x xᵀ (E11).

    Arguments, return value and errors as `perception_refinement_loss`; there is no choice of
    normalisation, since this term does not shrink with resolution.
    """
    tensors = (features, real_features, layout, real_layout)
    return lvr_terms(*tensors, mask=mask, backend=backend)["style"]
