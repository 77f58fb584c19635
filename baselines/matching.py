"""How well images and captions match: DAMSM's attention of words on regions, and its two losses.

All is computed in float32 at least, whatever autocast says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.networks.masking import padding
from baselines.precision import accurate, no_autocast

EPSILON = 1e-8
REGIONS, TEXTS = 1200, 12  # that meet at a time on a CPU: four images of AttnGAN's 17x17 regions


def _region_attention(matches: Tensor, lengths: Tensor, gamma1: float) -> Tensor:
    """Matches (..., N, T, R) of texts and regions -> each word's attention over the regions.

    A softmax over the caption's own words per region, then one over regions, sharpened by gamma1.
    """
    padded = padding(lengths.to(matches.device), matches.shape[-2])[..., None]
    shares = matches.masked_fill(padded, -torch.inf).softmax(dim=-2)
    return (gamma1 * shares).softmax(dim=-1)


def word_attention(regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float) -> Tensor:
    """Where the image encoder finds each word of the image's own caption.

    Args:
        regions: (B, E, H, W).
        words: (B, E, T).
        lengths: (B,) integers.
        gamma1: sharpness.

    Returns:
        (B, T, H, W); sums to 1 over the grid, meaningless at padded words.
    """
    regions, words = accurate(regions, words)
    with no_autocast(regions):
        matches = torch.einsum("bdr,bdt->btr", regions.flatten(2), words)
        return _region_attention(matches, lengths, gamma1).unflatten(2, regions.shape[2:])


def word_scores(
    regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float
) -> Tensor:
    """How well each image's regions answer each text's words, R(image, text).

    Args:
        regions: (B, E, H, W) of B images.
        words: (N, E, T) of N texts; N need not equal B.
        lengths: (N,) integers.
        gamma1: sharpness of each word's attention over regions.
        gamma2: sharpness of the maximum over words.

    Returns:
        (B, N). The largest intermediates are (B, N, T, regions).
    """
    regions, words = accurate(regions, words)
    # Blocks depend on the lengths, which a compiled graph does not know.
    if regions.device.type == "cpu" and not torch.compiler.is_compiling():
        return _scores_by_blocks(regions, words, lengths, gamma1, gamma2)
    return _scores(regions, words, lengths, gamma1, gamma2)


def _scores_by_blocks(
    regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float
) -> Tensor:
    """A few images and texts at a time: what is between stays in the caches.

    Texts of like lengths share a block, which ends with the longest of them, so that hardly any
    padding is multiplied. A GPU would have to tell the lengths, and is faster in one piece.
    """
    order = lengths.argsort()
    images = max(1, REGIONS // regions[0, 0].numel())
    columns = []
    for chosen in order.split(TEXTS):
        some = lengths[chosen]
        block = words[chosen, :, : int(some.max())]
        rows = [_scores(part, block, some, gamma1, gamma2) for part in regions.split(images)]
        columns.append(torch.cat(rows))
    return torch.cat(columns, dim=1)[:, order.argsort()]


def _scores(
    regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float
) -> Tensor:
    """`word_scores` of regions and words that are accurate already."""
    with no_autocast(regions):
        regions = regions.flatten(2)
        matches = torch.einsum("bdr,ndt->bntr", regions, words)
        attention = _region_attention(matches, lengths, gamma1)
        context = torch.einsum("bntr,bdr->bntd", attention, regions)
        products = torch.einsum("bntd,ndt->bnt", context, words)
        norms = context.norm(dim=3) * words.norm(dim=1)
        relevance = gamma2 * products / norms.clamp(min=EPSILON)
        padded = padding(lengths.to(words.device), words.shape[2])
        return relevance.masked_fill(padded, -torch.inf).logsumexp(dim=2)


def sentence_scores(code: Tensor, sentence: Tensor) -> Tensor:
    """Cosine of every image code (B, E) with every sentence (N, E), (B, N)."""
    code, sentence = accurate(code, sentence)
    with no_autocast(code):
        norms = code.norm(dim=1)[:, None] * sentence.norm(dim=1)
        return code @ sentence.t() / norms.clamp(min=EPSILON)


def matching_loss(
    scores: Tensor,
    row_classes: Tensor | None = None,
    column_classes: Tensor | None = None,
    *,
    offset: int = 0,
) -> Tensor:
    """Cross-entropy that asks of every row to pick its own column.

    Args:
        scores: (B, N); the match of row i is column `offset + i`.
        row_classes: (B,) class ids; columns of a row's class, other than its match, do not
            compete. None: all do.
        column_classes: (N,) class ids.
        offset: column of the first row's match, for rows that are one process's share.

    Returns: a scalar, the mean over rows; 0 where nothing competes.
    """
    target = offset + torch.arange(scores.shape[0], device=scores.device)
    if row_classes is not None and column_classes is not None:
        same = row_classes[:, None] == column_classes
        own = target[:, None] == torch.arange(scores.shape[1], device=scores.device)
        scores = scores.masked_fill(same & ~own, -torch.inf)
    return F.cross_entropy(scores, target)


def matching_losses(scores: Tensor, class_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """`matching_loss` of (B, B) scores of images and texts: (image to text, text to image)."""
    return (
        matching_loss(scores, class_ids, class_ids),
        matching_loss(scores.t(), class_ids, class_ids),
    )


def words_loss(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    class_ids: Tensor | None,
    *,
    gamma1: float,
    gamma2: float,
    gamma3: float,
) -> tuple[Tensor, Tensor]:
    """DAMSM's word loss, (image to text, text to image).

    Args:
        regions: (B, E, H, W).
        words: (B, E, T), anything in the padded columns.
        lengths: (B,) integers.
        class_ids: (B,) integers or None; samples of one class do not compete.
        gamma1: see `word_scores`.
        gamma2: see `word_scores`.
        gamma3: sharpness of the choice among the batch.
    """
    scores = word_scores(regions, words, lengths, gamma1=gamma1, gamma2=gamma2)
    return matching_losses(gamma3 * scores, class_ids)


def sentence_loss(
    code: Tensor, sentence: Tensor, class_ids: Tensor | None, *, gamma3: float
) -> tuple[Tensor, Tensor]:
    """DAMSM's sentence loss of (B, E) codes and sentences: (image to text, text to image)."""
    return matching_losses(gamma3 * sentence_scores(code, sentence), class_ids)
