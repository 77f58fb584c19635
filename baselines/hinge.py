"""Losses of one-way discriminators: hinge, and the gradient penalty of matching pairs (DF-GAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.precision import accurate, no_autocast


def hinge_terms(real: Tensor, fake: Tensor, wrong: Tensor) -> dict[str, Tensor]:
    """A one-way discriminator's hinge loss and its parts.

    mean(1 - real)₊ + ½ (mean(1 + fake)₊ + mean(1 + wrong)₊)

    >>> hinge_terms(torch.tensor([0.5]), torch.tensor([-2.0]), torch.tensor([1.0]))["total"]
    tensor(1.5000)

    Only a real image with its own caption counts as real; drawn images and mismatched pairs are
    the two halves of what does not.

    Args:
        real: logits of matching pairs, any shape.
        fake: logits of drawn images with their captions.
        wrong: logits of real images with other captions.

    Returns:
        "total", the hinge means "real", "fake", "wrong", and, without gradient, the mean logits
        "logit_real", "logit_fake", "logit_wrong".
    """
    logits = dict(zip(("real", "fake", "wrong"), accurate(real, fake, wrong), strict=True))
    terms = {
        name: (1 - value if name == "real" else 1 + value).relu().mean()
        for name, value in logits.items()
    }
    terms["total"] = terms["real"] + (terms["fake"] + terms["wrong"]) / 2
    return terms | {f"logit_{name}": value.detach().mean() for name, value in logits.items()}


def matching_aware_gradient_penalty(
    logits: Tensor, images: Tensor, sentence: Tensor, *, power: float = 6.0, weight: float = 2.0
) -> Tensor:
    """Flatten the discriminator around real images with their own captions (DF-GAN).

    weight * mean_b ||(d logit_b / d image_b, d logit_b / d sentence_b)||^power, one norm over both
    gradients together. Networks between the inputs and `logits` must be twice differentiable, and
    run in float32: the sixth power leaves half precision's range at a norm of 6.3.

    Args:
        logits: (B,) or (B, ...), one value a sample, computed from the two below.
        images: (B, 3, S, S), requiring gradients.
        sentence: (B, E), requiring gradients.
        power: at least 2, where the gradient of the power of a norm exists at 0.
        weight: of the whole.

    Returns:
        Scalar, differentiable by the networks' parameters.

    Raises:
        ValueError: an input does not require gradients or is in half precision, or `power` < 2.
    """
    if power < 2:
        raise ValueError(f"power is {power}, expected 2 or more")
    for name, value in (("logits", logits), ("images", images), ("sentence", sentence)):
        if not value.requires_grad:
            raise ValueError(f"{name} does not require gradients; call requires_grad_() first")
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is {value.dtype}; run the networks without autocast")
    with no_autocast(logits):
        gradients = torch.autograd.grad(logits.sum(), (images, sentence), create_graph=True)
        square = sum(gradient.flatten(1).square().sum(dim=1) for gradient in gradients)
        # (sum of squares)^(power / 2): a root would have no gradient where the norm is 0.
        return weight * (square ** (power / 2)).mean()
