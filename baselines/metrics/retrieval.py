"""Retrieval recall of two encoders: does an image find its captions, a caption its image?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

RANKS = (1, 5, 10)


@torch.no_grad()
def retrieval(
    codes: Tensor, sentences: Tensor, image_of: Tensor | Sequence[int], *, chunk: int = 512
) -> dict[str, float]:
    """Recall at 1, 5 and 10 by cosine, both directions, in 0..1.

    An image is a hit at k if any of its captions is among the k nearest sentences; a caption, if
    its image is among the k nearest codes. A wrong candidate as near as the right one ranks
    before it, so that encoders which map everything to one point score 0.

    Args:
        codes: (M, E) image codes.
        sentences: (N, E) sentence vectors.
        image_of: (N,) the index into `codes` of each sentence's image; every image has one or more.
        chunk: rows of the similarity matrix held at once.

    Returns:
        "image_to_text/R@1" and so on, "text_to_image/R@1" and so on.

    Raises:
        ValueError: shapes that do not fit, an index outside `codes`, or an image with no sentence.
    """
    image_of = torch.as_tensor(image_of, device=codes.device)
    _check(codes, sentences, image_of)
    codes = F.normalize(codes.float(), dim=1)
    sentences = F.normalize(sentences.to(codes), dim=1)
    images = torch.arange(len(codes), device=codes.device)
    return {
        f"{direction}/R@{k}": (ranks < k).double().mean().item()
        for direction, ranks in (
            ("image_to_text", _ranks(codes, sentences, images, image_of, chunk)),
            ("text_to_image", _ranks(sentences, codes, image_of, images, chunk)),
        )
        for k in RANKS
    }


def _ranks(
    queries: Tensor, candidates: Tensor, query_ids: Tensor, candidate_ids: Tensor, chunk: int
) -> Tensor:
    """(len(queries),) how many wrong candidates are at least as near as the nearest right one."""
    ranks = []
    for rows, ids in zip(queries.split(chunk), query_ids.split(chunk), strict=True):
        scores = rows @ candidates.T
        right = ids[:, None] == candidate_ids
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        # A NaN compares false with everything and would pass for a hit.
        ahead = ~(scores < best) & ~right
        ranks.append(ahead.sum(dim=1))
    return torch.cat(ranks)


def _check(codes: Tensor, sentences: Tensor, image_of: Tensor) -> None:
    if codes.ndim != 2 or sentences.ndim != 2 or codes.shape[1] != sentences.shape[1]:
        raise ValueError(
            f"expected codes (M, E) and sentences (N, E) of one width, got {tuple(codes.shape)} "
            f"and {tuple(sentences.shape)}"
        )
    if image_of.shape != sentences.shape[:1]:
        raise ValueError(
            f"image_of has shape {tuple(image_of.shape)}; expected one index for each of "
            f"{len(sentences)} sentences"
        )
    if not len(sentences) or image_of.min() < 0 or image_of.max() >= len(codes):
        raise ValueError(f"image_of must index the {len(codes)} codes, at least one sentence each")
    without = torch.bincount(image_of, minlength=len(codes)) == 0
    if without.any():
        raise ValueError(
            f"image {int(without.nonzero()[0])} has no sentence; leave it out of codes"
        )
