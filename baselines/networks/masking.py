"""Which scores of regions against words count."""

from __future__ import annotations

import torch
from torch import Tensor


def padding(lengths: Tensor, max_words: int) -> Tensor:
    """(B,) lengths -> (B, T) booleans, true at padded words."""
    return torch.arange(max_words, device=lengths.device) >= lengths[:, None]


def mask_scores(scores: Tensor, lengths: Tensor, *, legacy: bool = False) -> Tensor:
    """Put -inf on padded words of region-word scores (B, N, T).

    Correct: every region of a sample gets that sample's caption. `legacy` is what AttnGAN and
    DM-GAN do and their released weights are used to: with the rows numbered b*N + q, row r gets
    the caption of sample r mod B (AttnGAN issue 93), so that a picture depends on what shares
    its batch. Both agree for B = 1 and for captions of one length.
    """
    batch, regions, max_words = scores.shape
    padded = padding(lengths.to(scores.device), max_words)
    if legacy:
        rows = torch.arange(batch * regions, device=scores.device) % batch
        return scores.masked_fill(padded[rows].view_as(scores), -torch.inf)
    return scores.masked_fill(padded[:, None], -torch.inf)
