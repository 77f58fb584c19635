"""Scores by an encoder of images and texts, such as CLIP, which the caller brings.

- positional alignment (PA): does the image prefer its caption to one with the place turned over?
- counting alignment (CA): how far are counted objects from what the caption counts?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from baselines.metrics.resampling import share
from baselines.metrics.spec import Score

LEAST_PREFERENCE = 0.6


class ImageTextModel(Protocol):
    """How well texts fit images; CLIP ViT-B/32 is what PA is published with."""

    def __call__(self, images: Tensor, texts: Sequence[Sequence[str]]) -> Tensor:
        """Logits (B, K) of the K texts of each of (B, 3, S, S) images in [-1, 1]."""
        ...


def positional_alignment(
    model: ImageTextModel,
    cases: Mapping[str, Sequence[tuple[Tensor, str, str]]],
    *,
    batch_size: int = 32,
) -> dict[str, Score]:
    """Measure PA: the plain mean over positional words of the share of images that are aligned.

    An image is aligned if the softmax over its caption and the false one gives the true one more
    than 0.6.

    Args:
        model: CLIP or another.
        cases: for every positional word (image (3, S, S), caption, false caption) triples.
        batch_size: images judged at once.

    Returns:
        "pa", and "pa/WORD" for every word.
    """
    scores = {}
    for word, triples in cases.items():
        held = []
        for start in range(0, len(triples), batch_size):
            part = triples[start : start + batch_size]
            images = torch.stack([image for image, _, _ in part])
            logits = model(images, [(true, false) for _, true, false in part]).double()
            held.append(logits.softmax(dim=1)[:, 0] > LEAST_PREFERENCE)
        aligned = torch.cat(held)
        value, error, interval = share(aligned, torch.ones(len(aligned)))
        scores[f"pa/{word}"] = Score(value, error=error, interval=interval, count=len(aligned))
    mean = sum(score.value for score in scores.values()) / len(scores) if scores else math.nan
    errors = [score.error or 0.0 for score in scores.values()]
    overall = Score(mean, error=math.hypot(*errors) / max(1, len(errors)), count=len(scores))
    return {"pa": overall, **scores}


def counting_alignment(
    counted: Sequence[Mapping[str, int]], stated: Sequence[Mapping[str, int]]
) -> Score:
    """Measure CA: the root mean square error over the classes that a caption counts, lower better.

    Args:
        counted: by class what a counter found in each image; an absent class is 0.
        stated: by class what the image's caption counts.

    >>> counting_alignment([{"dog": 3}], [{"dog": 1, "cat": 2}]).value
    2.0
    """
    if len(counted) != len(stated) or not all(stated):
        raise ValueError("counting needs a caption that counts something for every image")
    errors = torch.tensor(
        [
            math.sqrt(sum((found.get(k, 0) - n) ** 2 for k, n in said.items()) / len(said))
            for found, said in zip(counted, stated, strict=True)
        ],
        dtype=torch.float64,
    )
    error = float(errors.std() / len(errors) ** 0.5) if len(errors) > 1 else None
    return Score(float(errors.mean()), error=error, count=len(errors))
