"""The hosts' losses: adversarial (E13, E14), DAMSM, caption, KL.

All are computed in float32 at least, whatever autocast says, and return scalars.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.hinge import hinge_terms, matching_aware_gradient_penalty
from baselines.matching import (
    matching_loss,
    matching_losses,
    sentence_loss,
    sentence_scores,
    word_attention,
    word_scores,
    words_loss,
)
from baselines.networks.discriminators import Discriminator
from baselines.precision import accurate, no_autocast

__all__ = [
    "colour_consistency_loss",
    "derangement",
    "discriminator_loss",
    "discriminator_terms",
    "generator_loss",
    "hinge_terms",
    "kl_loss",
    "matching_aware_gradient_penalty",
    "matching_loss",
    "matching_losses",
    "sentence_loss",
    "sentence_scores",
    "word_attention",
    "word_scores",
    "words_loss",
    "wrong_image_terms",
]


def _cross_entropy(logits: Tensor, real: bool) -> Tensor:
    (logits,) = accurate(logits)
    target = torch.full_like(logits, float(real))
    return F.binary_cross_entropy_with_logits(logits, target)


def derangement(class_ids: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """For every sample of the batch another one, of another class where that is possible.

    Args:
        class_ids: (B,) integers, B >= 2.
        generator: source of the randomness, on the device of `class_ids`.

    Returns:
        (B,) int64, a permutation without fixed points in which as few samples as possible meet
        their own class: none, unless one class holds more than half of the batch.

    Raises:
        ValueError: when B < 2.
    """
    batch, device = class_ids.shape[0], class_ids.device
    if batch < 2:
        raise ValueError(f"mismatched pairs need a batch of at least 2, got {batch}")
    place = torch.randperm(batch, generator=generator, device=device)
    same = class_ids[:, None] == class_ids
    # Classes in random order, and in random order within a class.
    first_of_class = torch.where(same, place, batch).min(dim=1).values
    order = torch.argsort(first_of_class * batch + place)
    largest = same.sum(dim=1).max()
    # In class order a shift by the size of the largest class leaves every class behind. If all
    # are of one class, any shift will do.
    shift = torch.where(largest == batch, 1, largest)
    partner = order[(torch.arange(batch, device=device) + shift) % batch]
    return torch.empty_like(order).scatter_(0, order, partner)


def _mismatched(
    discriminator: Discriminator, features: Tensor, sentence: Tensor, wrong: str | Tensor
) -> Tensor:
    if isinstance(wrong, Tensor):
        if wrong.shape != sentence.shape:
            raise ValueError(
                f"wrong must have the shape of sentence, {tuple(sentence.shape)}, "
                f"got {tuple(wrong.shape)}"
            )
        return discriminator.conditional(features, wrong)
    if wrong != "shift":
        raise ValueError(f'wrong must be "shift" or a (B, E) tensor of sentences, got {wrong!r}')
    if sentence.shape[0] < 2:
        raise ValueError(
            'wrong="shift" pairs each image with the next caption and needs a batch of at least 2, '
            f"got {sentence.shape[0]}; use a larger batch or pass mismatched sentences"
        )
    return discriminator.conditional(features[:-1], sentence[1:])


def discriminator_terms(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    sentence: Tensor,
    *,
    wrong: str | Tensor = "shift",
) -> dict[str, Tensor]:
    """A discriminator's loss and its parts (E14 with AttnGAN's weights).

    Args:
        discriminator: a `Discriminator`.
        real: (B, 3, S, S).
        fake: (B, 3, S, S); detached here.
        sentence: (B, E) of the real images.
        wrong: "shift" pairs real image i with sentence i+1 as the originals do (B-1 pairs, classes
            unchecked); or (B, E), a mismatched sentence for every real image (`derangement`).

    Returns:
        "total"; the cross-entropies "real", "fake", "wrong" of the conditional head and
        "real_unconditional", "fake_unconditional" if there is that head; and, without gradient,
        the mean conditional logits "logit_real", "logit_fake", "logit_wrong".

    Raises:
        ValueError: B < 2 with "shift", or `wrong` of another shape than `sentence`.
    """
    real_features = discriminator(real)
    fake_features = discriminator(fake.detach())
    real_logits = discriminator.conditional(real_features, sentence)
    fake_logits = discriminator.conditional(fake_features, sentence)
    wrong_logits = _mismatched(discriminator, real_features, sentence, wrong)
    terms = {
        "real": _cross_entropy(real_logits, True),
        "fake": _cross_entropy(fake_logits, False),
        "wrong": _cross_entropy(wrong_logits, False),
        "logit_real": real_logits.detach().float().mean(),
        "logit_fake": fake_logits.detach().float().mean(),
        "logit_wrong": wrong_logits.detach().float().mean(),
    }
    if discriminator.unconditional is None:
        terms["total"] = terms["real"] + (terms["fake"] + terms["wrong"]) / 2
        return terms
    real_alone = _cross_entropy(discriminator.unconditional(real_features), True)
    fake_alone = _cross_entropy(discriminator.unconditional(fake_features), False)
    total = (real_alone + terms["real"]) / 2 + (fake_alone + terms["fake"] + terms["wrong"]) / 3
    return terms | {
        "real_unconditional": real_alone,
        "fake_unconditional": fake_alone,
        "total": total,
    }


def discriminator_loss(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    sentence: Tensor,
    *,
    wrong: str | Tensor = "shift",
) -> Tensor:
    """The "total" of `discriminator_terms`."""
    return discriminator_terms(discriminator, real, fake, sentence, wrong=wrong)["total"]


def wrong_image_terms(
    discriminator: Discriminator,
    real: Tensor,
    wrong: Tensor,
    fake: Tensor,
    condition: Tensor,
    *,
    unconditional: float = 1.0,
) -> dict[str, Tensor]:
    """StackGAN++'s discriminator loss and its parts, with wrong images for the right condition.

    A wrong image is real to the unconditional head and mismatched to the conditional one. The
    network sees real, wrong and fake images in this order, each with batch statistics of its own.

    Args:
        discriminator: a `Discriminator` with an unconditional head.
        real: (B, 3, S, S) images of the condition.
        wrong: (B, 3, S, S) real images of something else.
        fake: (B, 3, S, S); detached here.
        condition: (B, C), what the conditional head is given; detached here.
        unconditional: U, weight of the unconditional head's three cross-entropies. 0 leaves them
            out of the total, which then averages wrong and fake instead of adding them.

    Returns:
        "total"; the cross-entropies "real", "wrong", "fake" of the conditional head and
        "real_unconditional", "wrong_unconditional", "fake_unconditional"; and, without gradient,
        the mean conditional logits "logit_real", "logit_wrong", "logit_fake".
    """
    assert discriminator.unconditional is not None
    terms: dict[str, Tensor] = {}
    for name, images in (("real", real), ("wrong", wrong), ("fake", fake.detach())):
        features = discriminator(images)
        logits = discriminator.conditional(features, condition.detach())
        terms[name] = _cross_entropy(logits, name == "real")
        unpaired = discriminator.unconditional(features)
        terms[f"{name}_unconditional"] = _cross_entropy(unpaired, name != "fake")
        terms[f"logit_{name}"] = logits.detach().float().mean()
    if not unconditional:
        return terms | {"total": terms["real"] + (terms["wrong"] + terms["fake"]) / 2}
    matched = terms["real"] + terms["wrong"] + terms["fake"]
    alone = sum(terms[f"{name}_unconditional"] for name in ("real", "wrong", "fake"))
    return terms | {"total": matched + unconditional * alone}


def generator_loss(
    discriminator: Discriminator, fake: Tensor, sentence: Tensor, *, unconditional: float = 1.0
) -> Tensor:
    """How far one scale's fakes (B, 3, S, S) are from passing for real and for matching.

    `unconditional` weighs the unconditional head's part, where there is that head.
    """
    features = discriminator(fake)
    loss = _cross_entropy(discriminator.conditional(features, sentence), True)
    if discriminator.unconditional is None or not unconditional:
        return loss
    return loss + unconditional * _cross_entropy(discriminator.unconditional(features), True)


def colour_consistency_loss(fine: Tensor, coarse: Tensor) -> Tensor:
    """How far the colours of an image are from those of its smaller version (StackGAN++).

    The squared difference of the mean colours, plus 5 times that of the covariances of the
    channels over all pixels (divided by their number, not by one less).

    Args:
        fine: (B, 3, H, W), which learns.
        coarse: (B, 3, h, w), of any other size; detached here.

    Returns:
        Scalar, each part a mean over batch and entries.
    """
    fine, coarse = accurate(fine, coarse.detach())
    with no_autocast(fine):
        (mean, covariance), (target_mean, target_covariance) = map(_colours, (fine, coarse))
        return F.mse_loss(mean, target_mean) + 5 * F.mse_loss(covariance, target_covariance)


def _colours(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colour (B, 3) and covariance of the channels (B, 3, 3)."""
    pixels = images.flatten(2)
    mean = pixels.mean(dim=2, keepdim=True)
    centred = pixels - mean
    return mean[..., 0], centred @ centred.transpose(1, 2) / pixels.shape[2]


def caption_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of a captioner's words, the mean over all words of the batch (MirrorGAN).

    Long captions therefore weigh more than short ones.

    Args:
        logits: (N, V), one row per real word of any caption; padding has no row.
        targets: (N,) int64, the words.

    Raises:
        ValueError: for other shapes, or without any word.
    """
    if logits.dim() != 2 or targets.shape != logits.shape[:1] or not len(targets):
        raise ValueError(
            "logits must be (N, V) and targets (N,) with N > 0, "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    (logits,) = accurate(logits)
    return F.cross_entropy(logits, targets)


def kl_loss(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mu, exp(logvar)) from N(0, I): ½ mean(mu² + exp(logvar) - 1 - logvar).

    >>> kl_loss(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(0.5000)
    """
    mu, logvar = accurate(mu, logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
