"""R-precision by DM-GAN's protocol: does an image pick out its caption?

Differences from the published code, each of which only takes accidents away: folds are cut by
`array_split`, so every image counts and any number of images will do; captions are encoded once;
candidates follow from a seed; a wrong caption as near as the true one makes a miss, and what the
score would be if ties were decided by lot stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.data.scenes import Scenes
from baselines.errors import UserError
from baselines.metrics.layout import check_caption
from baselines.metrics.resampling import share
from baselines.metrics.spec import (
    CaptionEncoder,
    EvaluationContext,
    ImageSet,
    MetricSpec,
    Score,
)

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "r_precision"
PUBLISHED_COUNT = 30_000
CEILING_IMAGES = 1000
CANDIDATES = 100
FOLDS = 10


@dataclass(frozen=True)
class RPrecision:
    """The share of hits, in 0..1.

    mean, std: over the folds, the deviation as published (ddof 0); error: standard error of the
    mean over images; interval: 95 % of it.
    """

    mean: float
    std: float
    images: int
    folds: int
    error: float | None = None
    interval: tuple[float, float] | None = None


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
        self.order = order
        # Sorted by class: the captions of other classes are all but one run of the list.
        self._sentences = F.normalize(sentences.float(), dim=1)[order.to(sentences.device)]
        self._classes = class_ids.cpu()[order].contiguous()

    def chance(self, class_ids: Tensor) -> float:
        """Give the expected score of images that have nothing to do with their captions.

        One in the number of candidates only where there are many captions: of M captions of other
        classes, drawn k times with replacement, r are nearer than the own one with equal chance
        for r = 0..M, and it wins with probability ((M − r) / M)ᵏ.
        """
        sizes, counts = torch.unique(self._others(class_ids)[1], return_counts=True)
        wins = [_random_win(int(others), self.candidates - 1) for others in sizes]
        return float(np.average(wins, weights=counts.numpy()))

    def _others(self, class_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the captions of a class start, how many of other classes there are, the run."""
        class_ids = class_ids.cpu().contiguous()
        start = torch.searchsorted(self._classes, class_ids)
        stop = torch.searchsorted(self._classes, class_ids, right=True)
        return start, len(self._classes) - (stop - start), stop - start

    def choose_wrong(self, class_ids: Tensor, generator: torch.Generator) -> Tensor:
        """(B, candidates - 1) places of captions of other classes, with replacement.

        Raises:
            UserError: the split has captions of one class only.
        """
        start, others, own = self._others(class_ids)
        if (others == 0).any():
            raise UserError(
                "R-precision needs captions of at least two classes; "
                f"all {len(self._classes)} are of class {int(class_ids.cpu()[others == 0][0])}"
            )
        shape = (len(class_ids), self.candidates - 1)
        share = torch.rand(shape, generator=generator, dtype=torch.float64)
        place = (share * others[:, None]).long()
        return torch.where(place < start[:, None], place, place + own[:, None])

    def hits(
        self,
        codes: Tensor,
        sentences: Tensor,
        class_ids: Tensor,
        *,
        generator: torch.Generator,
        chunk: int = 256,
    ) -> Tensor:
        """(B,) whether each code is nearer, by cosine, to its own sentence than to all others."""
        found = self.outcomes(codes, sentences, class_ids, generator=generator, chunk=chunk)
        return found.hits

    @torch.no_grad()
    def outcomes(
        self,
        codes: Tensor,
        sentences: Tensor,
        class_ids: Tensor,
        *,
        generator: torch.Generator,
        chunk: int = 256,
    ) -> Outcomes:
        """Let each code choose among its own sentence and wrong candidates, by cosine.

        Args:
            codes: (B, E) image codes.
            sentences: (B, E) what the images were drawn from.
            class_ids: (B,) classes of the images.
            generator: on the CPU; which candidates are drawn depends on it alone.
            chunk: images compared at once.
        """
        codes = F.normalize(codes.float(), dim=1)
        # The same operation as the candidates', so that equal sentences stay equal to the bit.
        own = F.normalize(sentences.float(), dim=1).to(codes)
        hits, lots = [], []
        for rows in torch.arange(len(codes)).split(chunk):
            places = self.choose_wrong(class_ids[rows.to(class_ids.device)], generator)
            others = self._sentences[places.to(self._sentences.device)].to(codes)
            # One product for all: a matrix product rounds by place, and would break ties by it.
            candidates = torch.cat([own[rows, None], others], dim=1)
            scores = (codes[rows, None] * candidates).sum(dim=2)
            first, rest = scores[:, :1], scores[:, 1:]
            hits.append((first > rest).all(dim=1))
            best, ties = (first >= rest).all(dim=1), (first == rest).sum(dim=1)
            lots.append(best.double() / (1 + ties))
        return Outcomes(torch.cat(hits).cpu(), torch.cat(lots).cpu())


@dataclass(frozen=True)
class Outcomes:
    """hits (B,): a tie is a miss; by_lot (B,): the chance of a hit if ties are decided by lot."""

    hits: Tensor
    by_lot: Tensor


def _random_win(others: int, draws: int) -> float:
    """Σ over r = 0..M of ((M − r) / M)ᵏ / (M + 1).

    >>> _random_win(1, 99), round(_random_win(10**6, 99), 6)
    (0.5, 0.01)
    """
    if not others:
        return math.nan
    return float(((np.arange(others + 1) / others) ** draws).mean())


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
    _, error, interval = share(hits, torch.ones(len(hits)))
    return RPrecision(
        float(shares.mean()), float(shares.std()), len(hits), len(parts), error, interval
    )


def ceiling(context: EvaluationContext, pool: CandidateCaptions, rows: Tensor) -> float:
    """Give what a judge would score that knows all that captions of scenes state of true images.

    A wrong caption whose statements all hold of the scene is as good as the right one; such ties
    are decided by lot. Every judge that reads captions alone stays below on average.
    """
    assert isinstance(context.source, Scenes)
    rng = torch.Generator().manual_seed(context.seed)
    places = pool.choose_wrong(context.pairs.class_ids[rows], rng)
    total = 0.0
    for row, others in zip(rows.tolist(), pool.order[places].tolist(), strict=True):
        objects = context.source.scene(int(context.pairs.images[row])).objects
        true = sum(check_caption(context.stated(o)[0], objects).holds for o in others)
        total += 1 / (1 + true)
    return total / len(rows)


class RPrecisionMetric:
    """`r_precision`: by the run's own encoders, and by independent ones where they are given."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context, self.images = context, images
        classes = context.pairs.class_ids
        self.pools = [CandidateCaptions(e.sentences, classes) for e in context.encoders]
        # The same candidates for every set of images: differences are those of the images.
        self.rngs = [torch.Generator().manual_seed(context.seed) for _ in context.encoders]
        self.outcomes: list[list[Outcomes]] = [[] for _ in context.encoders]
        self.classes: list[Tensor] = []
        self.rows: list[Tensor] = []

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        classes = self.context.pairs.class_ids[batch.rows]
        self.classes.append(classes)
        self.rows.append(batch.rows)
        for encoder, pool, rng, outcomes in zip(
            self.context.encoders, self.pools, self.rngs, self.outcomes, strict=True
        ):
            code = batch.code(encoder.image).float().cpu()
            sentences = encoder.sentences[batch.rows]
            outcomes.append(pool.outcomes(code, sentences, classes, generator=rng))

    def scores(self) -> Mapping[str, Score]:
        """Give a row for every pair of encoders."""
        classes = torch.cat(self.classes)
        rows = {}
        for encoder, pool, outcomes in zip(
            self.context.encoders, self.pools, self.outcomes, strict=True
        ):
            result = r_precision(torch.cat([o.hits for o in outcomes]), seed=self.context.seed)
            by_lot = torch.cat([o.by_lot for o in outcomes]).mean()
            rows[_row(encoder)] = Score(
                result.mean,
                error=result.error,
                interval=result.interval,
                spread=result.std,
                chance=pool.chance(classes),
                count=result.images,
                facts={"folds": result.folds, "ties_by_lot": float(by_lot)},
            )
        if self.images.real and isinstance(self.context.source, Scenes) and self.pools:
            few = torch.cat(self.rows)[:CEILING_IMAGES]
            value = ceiling(self.context, self.pools[0], few)
            rows[f"{NAME}/ceiling"] = Score(value, count=len(few))
        return rows


def _row(encoder: CaptionEncoder) -> str:
    return f"{NAME}/{encoder.name}" if encoder.name else NAME


def _missing(context: EvaluationContext) -> str:
    if not context.encoders:
        return "it needs encoders of captions: give --run, --independent-encoder or --clip"
    if len(context.pairs.class_ids.unique()) < 2:
        return "it needs captions of at least two classes"
    return ""


def _warnings(context: EvaluationContext) -> list[str]:
    found = []
    if any(not encoder.name for encoder in context.encoders):
        found.append(
            "R-precision by the encoders that the generator was trained with is partly what "
            "training optimised; --independent-encoder judges by others"
        )
    if context.drawn < PUBLISHED_COUNT:
        found.append(
            f"R-precision of {context.drawn:,} images; published ones are of {PUBLISHED_COUNT:,}"
        )
    return found


def _settings(context: EvaluationContext, part: str) -> Mapping[str, Any]:
    weights = {encoder.name: encoder.weights for encoder in context.encoders}
    return {"candidates": CANDIDATES, "folds": FOLDS, "encoders": weights.get(part)}


def _title(part: str) -> str:
    if part == "ceiling":
        return "- ceiling: a judge that knows what captions state, %"
    return f"R-precision % ↑ ({part} encoders)" if part else "R-precision % ↑"


SPEC = MetricSpec(
    name=NAME,
    start=RPrecisionMetric,
    title=_title,
    percent=True,
    missing=_missing,
    settings=_settings,
    warnings=_warnings,
)
