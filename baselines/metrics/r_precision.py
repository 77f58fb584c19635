"""R-precision by DM-GAN's protocol (baselines_spec 10): does an image pick out its caption?

Differences from the published code, each of which only takes accidents away: folds are cut by
`array_split`, so every image counts and any number of images will do; captions are encoded once;
candidates follow from a seed; a wrong caption as near as the true one makes a miss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CANDIDATES = 100
FOLDS = 10


@dataclass(frozen=True)
class RPrecision:
    """Mean and standard deviation over the folds of the share of hits, in 0..1."""

    mean: float
    std: float
    images: int
    folds: int


class CandidateCaptions:
    """The captions of a split, from which wrong candidates are drawn.

    Args:
        sentences: (P, E) sentence vectors of every caption.
        class_ids: (P,) class of the image of each.
        candidates: how many an image chooses from, its own caption included.

    Raises:
        ValueError: shapes that do not fit, or fewer than two candidates.
    """

    def __init__(
        self, sentences: Tensor, class_ids: Tensor, *, candidates: int = CANDIDATES
    ) -> None:
        if sentences.ndim != 2 or class_ids.shape != sentences.shape[:1]:
            raise ValueError(
                "expected sentences (P, E) and class_ids (P,), "
                f"got {tuple(sentences.shape)} and {tuple(class_ids.shape)}"
            )
        if candidates < 2:
            raise ValueError(f"candidates is {candidates}; expected 2 or more")
        self.candidates = candidates
        order = class_ids.cpu().argsort(stable=True)
        # Sorted by class: the captions of other classes are all but one run of the list.
        self._sentences = F.normalize(sentences.float(), dim=1)[order.to(sentences.device)]
        self._classes = class_ids.cpu()[order].contiguous()

    @property
    def chance(self) -> float:
        """The expected score of images that have nothing to do with their captions."""
        return 1 / self.candidates

    def draw(self, class_ids: Tensor, generator: torch.Generator) -> Tensor:
        """(B, candidates - 1) places of captions of other classes, with replacement.

        Raises:
            ValueError: the split has captions of one class only.
        """
        class_ids = class_ids.cpu().contiguous()
        start = torch.searchsorted(self._classes, class_ids)
        stop = torch.searchsorted(self._classes, class_ids, right=True)
        others = len(self._classes) - (stop - start)
        if (others == 0).any():
            raise ValueError(
                "R-precision needs captions of at least two classes; "
                f"all {len(self._classes)} are of class {int(class_ids[others == 0][0])}"
            )
        shape = (len(class_ids), self.candidates - 1)
        share = torch.rand(shape, generator=generator, dtype=torch.float64)
        place = (share * others[:, None]).long()
        return torch.where(place < start[:, None], place, place + (stop - start)[:, None])

    @torch.no_grad()
    def hits(
        self,
        codes: Tensor,
        sentences: Tensor,
        class_ids: Tensor,
        *,
        generator: torch.Generator,
        chunk: int = 256,
    ) -> Tensor:
        """(B,) whether each code is nearer, by cosine, to its own sentence than to all others.

        Args:
            codes: (B, E) image codes.
            sentences: (B, E) what the images were drawn from.
            class_ids: (B,) classes of the images.
            generator: on the CPU; which candidates are drawn depends on it alone.
            chunk: images compared at once.
        """
        codes = F.normalize(codes.float(), dim=1)
        own = (codes * F.normalize(sentences.to(codes), dim=1)).sum(dim=1)
        hits = []
        for rows in torch.arange(len(codes)).split(chunk):
            places = self.draw(class_ids[rows.to(class_ids.device)], generator)
            others = self._sentences[places.to(self._sentences.device)].to(codes)
            scores = torch.einsum("be,bke->bk", codes[rows], others)
            hits.append((own[rows, None] > scores).all(dim=1))
        return torch.cat(hits).cpu()


def r_precision(hits: Tensor, *, seed: int, folds: int = FOLDS) -> RPrecision:
    """Shuffle the hits, cut them into `folds` (or as many as there are) and average.

    Raises:
        ValueError: no hits.
    """
    if not len(hits):
        raise ValueError("R-precision of no images")
    order = torch.randperm(len(hits), generator=torch.Generator().manual_seed(seed))
    parts = np.array_split(hits[order].double().numpy(), min(folds, len(hits)))
    shares = np.array([part.mean() for part in parts])
    return RPrecision(float(shares.mean()), float(shares.std()), len(hits), len(parts))
