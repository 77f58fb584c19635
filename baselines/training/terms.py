"""Named terms of a loss, their weights beside them; and DAMSM's terms over the global batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from baselines import losses
from baselines.config import LossConfig
from baselines.networks.contracts import Text
from baselines.networks.encoders import ImageFeatures
from baselines.training.distributed import World, gather

if TYPE_CHECKING:
    from baselines.training.objective import Step


class Term(NamedTuple):
    """A scalar of a loss: what it is called, how it counts, and how it is shown.

    name: in the log, behind the name of its phase.
    value: unweighted.
    weight: what it is multiplied with in the total; None: it is logged and does not count.
    panel: the curves it is drawn with; empty: those of its phase.
    in_bar: whether the progress bar shows it.
    """

    name: str
    value: Tensor
    weight: float | Tensor | None
    panel: str = ""
    in_bar: bool = False


@dataclass(frozen=True)
class PhaseLoss:
    """What one optimiser's part of a step minimises, and all scalars for the log."""

    total: Tensor
    terms: Sequence[Term]

    def logged(self, phase: str) -> list[Term]:
        """Every scalar under its full name, the total first; weights no longer matter."""
        total = Term("total", self.total, None, in_bar=True)
        return [
            term._replace(
                name=f"{phase}/{term.name}",
                value=term.value.detach(),
                weight=None,
                panel=term.panel or phase,
            )
            for term in (total, *self.terms)
        ]


def weighted_sum(terms: Sequence[Term]) -> Tensor:
    """The sum of all terms that count, each times its weight."""
    return torch.stack(
        [term.weight * term.value for term in terms if term.weight is not None]
    ).sum()


def mean_terms(parts: Sequence[Sequence[Term]]) -> list[Term]:
    """Every term's mean over the parts of a step, which all have the same terms."""
    if len(parts) == 1:
        return list(parts[0])
    return [
        same[0]._replace(value=torch.stack([term.value for term in same]).mean())
        for same in zip(*parts, strict=True)
    ]


class ExtraTerms:
    """Terms beside the host's own in the generator's loss: subclass it, override `terms`.

    Or override `before`, where something can be computed, and its memory freed, before the graph of
    the host's losses exists.

    networks: what the terms train or remember, by name: part of every checkpoint; the generator's
        optimiser trains their parameters.
    """

    networks: Mapping[str, nn.Module] = {}

    def before(self, step: Step) -> Callable[[Tensor], list[Term]]:
        """What gives `terms` once the host's loss is known; called before that is computed."""
        return partial(self.terms, step)

    def terms(self, step: Step, host: Tensor) -> list[Term]:
        """The terms of this step; `host` is the host's whole loss, for weighing against it."""
        return []

    def real_layouts(self, images: Sequence[Tensor], text: Text) -> tuple[Tensor, ...]:
        """Θ* of real images, (B, T, h, w) per refined stage; empty where there is no such thing.

        images: (B, 3, S, S) in every size of the generator, smallest first.
        """
        return ()


@dataclass(frozen=True)
class Captions:
    """Encoded captions of one batch, and the classes of their images."""

    sentence: Tensor  # (B, E)
    words: Tensor  # (B, E, T)
    lengths: Tensor  # (B,)
    class_ids: Tensor  # (B,)

    @property
    def text(self) -> Text:
        """What a generator is given of them."""
        return Text(self.words, self.lengths, self.sentence)


class CaptionBank(nn.Module):
    """Sentence vectors of the latest captions, oldest replaced first (an extension of ours).

    More wrong captions than a small batch holds, some of which differ from the right one in a
    single word, at no cost: the text encoder is frozen, so they never go stale. All state is in
    buffers and so part of a checkpoint.

    Args:
        size: how many captions it holds.
        width: E of the sentence vectors.
    """

    sentences: Tensor
    class_ids: Tensor
    added: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("sentences", torch.zeros(size, width))
        # -1: still empty. Counting on the device would make every step wait for it.
        self.register_buffer("class_ids", torch.full((size,), -1))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))

    def scores(self, code: Tensor, own: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of image codes (B, E) with the batch's own captions and with those held.

        Returns:
            (B, B + size), -inf at places still empty, and the classes of the columns.
        """
        scores = losses.sentence_scores(code, torch.cat((own, self.sentences.to(own.dtype))))
        columns = torch.cat((classes, self.class_ids))
        return scores.masked_fill(columns == -1, -torch.inf), columns

    @torch.no_grad()
    def add(self, sentences: Tensor, class_ids: Tensor) -> None:
        """Let the captions of a batch (B, E) take the places of the oldest."""
        newest = slice(-len(self.sentences), None)
        sentences, class_ids = sentences[newest], class_ids[newest]
        places = torch.arange(len(sentences), device=sentences.device)
        places = (self.added + places) % len(self.sentences)
        self.sentences[places] = sentences.float()
        self.class_ids[places] = class_ids
        self.added += len(sentences)


def damsm_losses(
    features: ImageFeatures,
    captions: Captions,
    loss: LossConfig,
    world: World,
    bank: CaptionBank | None = None,
) -> dict[str, Tensor]:
    """How well images and captions pick each other out of all ranks' samples.

    `features` are what the image encoder sees in the images. With a `bank`, an image's code must
    tell its own caption from those in there as well.

    Returns:
        "damsm_words" and "damsm_sentence", each the sum of both directions, unweighted. Every
        rank computes the loss of the whole global batch (see `distributed.gather`) from the
        scores of its own images: regions, which are most of the data, stay where they are.
    """
    class_ids = gather(captions.class_ids, world)
    scores = losses.word_scores(
        features.regions,
        gather(captions.words, world),
        gather(captions.lengths, world),
        gamma1=loss.gamma1,
        gamma2=loss.gamma2,
    )
    words = losses.matching_losses(loss.gamma3 * gather(scores, world), class_ids)
    code, sentence = gather(features.code, world), gather(captions.sentence, world)
    if bank is None:
        both = losses.sentence_loss(code, sentence, class_ids, gamma3=loss.gamma3)
    else:
        scores, columns = bank.scores(code, sentence, class_ids)
        scores = loss.gamma3 * scores
        both = (
            losses.matching_loss(scores, class_ids, columns),
            losses.matching_loss(scores[:, : len(code)].t(), class_ids, class_ids),
        )
        bank.add(sentence, class_ids)
    return {"damsm_words": words[0] + words[1], "damsm_sentence": both[0] + both[1]}
