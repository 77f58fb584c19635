"""DAMSM's words loss the way the originals compute it: one caption after the other.

For comparison only: what `baselines.losses.words_loss` does in batched products, here each
caption is attended to by all images of the batch in a loop, and the scores are put side by side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _match(regions: Tensor, caption: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """R of every image against one caption (D, L): (B,)."""
    visual = regions.flatten(2)
    words = caption.expand(visual.shape[0], *caption.shape)
    over_words = (visual.transpose(1, 2) @ words).softmax(2)
    over_regions = (gamma1 * over_words).softmax(1)
    relevance = F.cosine_similarity(visual @ over_regions, words, dim=1, eps=1e-8)
    return (gamma2 * relevance).exp().sum(1).log()


def word_scores(
    regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float
) -> Tensor:
    """R of every image and caption, (B, N), with a loop over the captions."""
    columns = [
        _match(regions, words[index, :, :length], gamma1, gamma2)
        for index, length in enumerate(lengths.tolist())
    ]
    return torch.stack(columns, 1)


def words_loss(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    class_ids: Tensor,
    *,
    gamma1: float,
    gamma2: float,
    gamma3: float,
) -> tuple[Tensor, Tensor]:
    """(image to text, text to image), with a loop over the captions."""
    scores = gamma3 * word_scores(regions, words, lengths, gamma1=gamma1, gamma2=gamma2)
    same_class = class_ids[:, None] == class_ids[None, :]
    same_class.fill_diagonal_(False)
    scores = scores.masked_fill(same_class, -torch.inf)
    diagonal = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, diagonal), F.cross_entropy(scores.t(), diagonal)
