"""DAMSM's word and sentence losses over the global batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from baselines import losses
from baselines.config import LossConfig
from baselines.networks.encoders import ImageEncoder
from baselines.training.distributed import World, gather


@dataclass(frozen=True)
class Captions:
    """Encoded captions of one batch."""

    sentence: Tensor  # (B, E)
    words: Tensor  # (B, E, T)
    lengths: Tensor  # (B,)
    class_ids: Tensor  # (B,)


def damsm_terms(
    image_encoder: ImageEncoder,
    images: Tensor,
    captions: Captions,
    loss: LossConfig,
    world: World,
) -> dict[str, Tensor]:
    """How well `images` and `captions` pick each other out of all ranks' samples.

    Returns:
        "damsm_words" and "damsm_sentence", each the sum of both directions, unweighted. Every
        rank computes the loss of the whole global batch (see `distributed.gather`).
    """
    features = image_encoder(images)
    class_ids = gather(captions.class_ids, world)
    words = losses.words_loss(
        gather(features.regions, world),
        gather(captions.words, world),
        gather(captions.lengths, world),
        class_ids,
        gamma1=loss.gamma1,
        gamma2=loss.gamma2,
        gamma3=loss.gamma3,
    )
    sentence = losses.sentence_loss(
        gather(features.code, world),
        gather(captions.sentence, world),
        class_ids,
        gamma3=loss.gamma3,
    )
    return {"damsm_words": words[0] + words[1], "damsm_sentence": sentence[0] + sentence[1]}
