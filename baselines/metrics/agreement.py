"""Agreement of Θ with Θ*: does a drawn image lay words out as the real image of the caption does?

The claim of layout refinement itself, on held-out pairs and on any data: no boxes are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.metrics.resampling import share
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score, partners

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "agreement"
PAIRS = 500
KINDS = ("difference", "hard", "overlap")


def agreement(
    layout: Tensor, real_layout: Tensor, lengths: Tensor, *, gamma: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compare layouts pair by pair, over the real words of each caption.

    Args:
        layout: Θ, (B, T, H, W).
        real_layout: Θ*, of the same shape.
        lengths: (B,) real words.
        gamma: from which difference on an element is hard.

    Returns:
        (B,) sums and (B,) counts of: "difference", |Θ* − Θ|; "hard", whether it is γ or more;
        "overlap", of the regions in which a word has at least half of its maximum (intersection
        over union, one a word).
    """
    if layout.shape != real_layout.shape or layout.ndim != 4 or lengths.shape != layout.shape[:1]:
        raise ValueError(
            f"layouts of shapes {tuple(layout.shape)} and {tuple(real_layout.shape)} with lengths "
            f"{tuple(lengths.shape)}; expected (B, T, H, W) twice and (B,)"
        )
    ours, theirs = layout.double().cpu(), real_layout.double().cpu()
    words = torch.arange(layout.shape[1])[None, :] < lengths.cpu()[:, None]
    apart = (theirs - ours).abs()
    regions = [m >= 0.5 * m.amax(dim=(2, 3), keepdim=True) for m in (ours, theirs)]
    shared = (regions[0] & regions[1]).sum(dim=(2, 3)).double()
    either = (regions[0] | regions[1]).sum(dim=(2, 3)).double()
    elements = words.sum(dim=1).double() * layout.shape[2] * layout.shape[3]
    by_word = {
        "difference": (apart.sum(dim=(2, 3)), elements),
        "hard": ((apart >= gamma).sum(dim=(2, 3)).double(), elements),
        "overlap": (shared / either.clamp(min=1), words.sum(dim=1).double()),
    }
    return {name: ((held * words).sum(dim=1), count) for name, (held, count) in by_word.items()}


class AgreementMetric:
    """`agreement/STAGE/KIND` of the first pairs, against the partner's real image as control."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        self.context = context
        self.partners = partners(context.pairs.class_ids[: images.pairs], context.seed)
        self.found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.shuffled: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        keep = batch.rows < PAIRS
        rows = batch.rows[keep]
        if not len(rows) or self.context.real_layouts is None:
            return
        chosen = keep.to(batch.images.device)
        for places, store in ((rows, self.found), (self.partners[rows], self.shuffled)):
            images = torch.stack(
                [
                    self.context.source.image(index, self.context.size)
                    for index in self.context.pairs.images[places].tolist()
                ]
            )
            real = self.context.real_layouts(images.to(batch.images.device), rows)
            for stage, layout in batch.layouts.items():
                if stage in real:
                    lengths = self.context.pairs.lengths[rows]
                    compared = agreement(
                        layout[chosen], real[stage], lengths, gamma=self.context.gamma
                    )
                    for kind, sums in compared.items():
                        store.setdefault(f"{NAME}/{stage}/{kind}", []).append(sums)

    def scores(self) -> Mapping[str, Score]:
        """Give three rows for every stage that both kinds of images have."""
        return {
            row: replace(_share(sums), chance=_share(self.shuffled[row]).value)
            for row, sums in self.found.items()
        }


def _share(sums: list[tuple[Tensor, Tensor]]) -> Score:
    held, counts = (torch.cat(part) for part in zip(*sums, strict=True))
    value, error, interval = share(held, counts)
    return Score(value, error=error, interval=interval, count=len(held))


def _title(part: str) -> str:
    stage, _, kind = part.partition("/")
    return {
        "difference": f"mean difference of Θ from Θ* % ↓ ({stage})",
        "hard": "- hard elements % ↓",
        "overlap": "- overlap of the words' regions % ↑",
    }.get(kind, part)


def _missing(context: EvaluationContext) -> str:
    return "" if context.real_layouts is not None else "it needs a run with layouts"


SPEC = MetricSpec(
    name=NAME,
    start=AgreementMetric,
    title=_title,
    percent=True,
    better="",
    missing=_missing,
    settings=lambda context, part: {"gamma": context.gamma, "pairs": PAIRS},
    note="Chance of agreement: Θ against Θ* of the same words on another caption's image.",
    uses_layouts=True,
    real=False,
)
