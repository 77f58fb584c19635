"""Positional alignment (PA): does an image prefer its caption to one with a place turned over?

TISE's rule (Dinh et al. 2022), published with CLIP ViT-B/32: for every positional word the images
whose caption has it are asked whether the caption fits better than the same caption with the word
turned over, by a softmax of more than 0.6; PA is the plain mean of the words' rates. Nothing is
detected: a score of boxes is another one.

Which captions are turned over, and how, is TISE's own list where its file is given, and our reading
without: every caption with a word of `OPPOSITES`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from baselines.data.reading import parse_json, read_lines
from baselines.data.source import DataError
from baselines.metrics.phrases import any_of
from baselines.metrics.resampling import share
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score, partners

if TYPE_CHECKING:
    from baselines.metrics.image_text import ImageTextJudge
    from baselines.metrics.images import ImageBatch

NAME = "pa"
LEAST_PREFERENCE = 0.6
OPPOSITES: Mapping[str, str] = {
    "above": "below",
    "below": "above",
    "beneath": "above",
    "behind": "in front of",
    "bottom": "top",
    "far from": "near",
    "in front of": "behind",
    "inside": "outside",
    "left": "right",
    "lower": "upper",
    "near": "far from",
    "on top of": "under",
    "outside": "inside",
    "right": "left",
    "top": "bottom",
    "under": "on top of",
    "upper": "lower",
}
_FORM = '{"text": "a cat above a dog", "false": "a cat below a dog", "word": "above"}'


class FalseCaption(NamedTuple):
    """A caption with one positional word turned over."""

    word: str
    text: str


Turned = Mapping[str, Sequence[FalseCaption]]


def turn_over(caption: str) -> list[FalseCaption]:
    """Turn each positional word of a caption over, one at a time.

    >>> turn_over("A cat on top of a box, left of a dog")  # doctest: +NORMALIZE_WHITESPACE
    [FalseCaption(word='left', text='A cat on top of a box, right of a dog'),
     FalseCaption(word='on top of', text='A cat under a box, left of a dog')]
    """
    words = dict.fromkeys(match.group().lower() for match in _places().finditer(caption))
    return [FalseCaption(word, _without(caption, word)) for word in sorted(words)]


def _without(caption: str, word: str) -> str:
    def opposite(match: re.Match[str]) -> str:
        found = match.group()
        if found.lower() != word:
            return found
        turned = OPPOSITES[word]
        return turned.capitalize() if found[0].isupper() else turned

    return _places().sub(opposite, caption)


@functools.cache
def _places() -> re.Pattern[str]:
    return re.compile(any_of(OPPOSITES), re.IGNORECASE)


def read_false_captions(path: Path) -> dict[str, list[FalseCaption]]:
    """Read false captions by caption, one JSON object a line.

    Raises:
        DataError: naming the line and what it lacks.
    """
    found: dict[str, list[FalseCaption]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            false = FalseCaption(str(row["word"]), str(row["false"]))
            found.setdefault(str(row["text"]), []).append(false)
        except (DataError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: {type(error).__name__} {error}; expected {_FORM}"
            ) from error
    if not found:
        raise DataError(f"{path}: no false caption; expected a line like {_FORM} for each")
    return found


def positional_alignment(held: Mapping[str, Sequence[bool]]) -> Score:
    """Average over words: the plain mean of the shares of aligned images of every word.

    Args:
        held: by positional word whether each of its images prefers its caption.

    Returns:
        the mean, its standard error as of independent words, and the words in `by`; NaN without a
        word.
    """
    by = {}
    for word in sorted(held):
        right = torch.tensor(held[word], dtype=torch.float64)
        value, error, interval = share(right, torch.ones(len(right)))
        by[word] = Score(value, error=error, interval=interval, count=len(right))
    if not by:
        return Score(math.nan, count=0)
    errors = [score.error or 0.0 for score in by.values()]
    return Score(
        sum(score.value for score in by.values()) / len(by),
        error=math.hypot(*errors) / len(errors) or None,
        count=sum(len(each) for each in held.values()),
        facts={"words": len(by)},
        by=by,
    )


class PositionalAlignment:
    """`pa`, with the partner's captions as control."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        assert context.judge is not None
        self.context = context
        self.judge: ImageTextJudge = context.judge
        self.partners = partners(context.pairs.class_ids[: images.pairs], context.seed)
        self.held: dict[str, list[bool]] = {}
        self.control: dict[str, list[bool]] = {}

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        rows = batch.rows.tolist()
        for others, store in (
            (rows, self.held),
            (self.partners[batch.rows].tolist(), self.control),
        ):
            cases = [
                (place, row, false)
                for place, row in enumerate(others)
                for false in self.turned(self.context.caption(row))
            ]
            if not cases:
                continue
            codes = batch.code(self.judge)[[place for place, _, _ in cases]]
            texts = [(self.context.caption(row), false.text) for _, row, false in cases]
            preferred = self.judge.probabilities(codes, texts)[:, 0] > LEAST_PREFERENCE
            for (_, _, false), aligned in zip(cases, preferred.tolist(), strict=True):
                store.setdefault(false.word, []).append(aligned)

    def turned(self, caption: str) -> Sequence[FalseCaption]:
        """Give the false captions of a caption."""
        listed = self.context.false_captions
        return turn_over(caption) if listed is None else listed.get(caption, ())

    def scores(self) -> Mapping[str, Score]:
        """Give the mean over words, or nothing where no caption says where."""
        if not self.held:
            return {}
        control = positional_alignment(self.control).value
        return {NAME: replace(positional_alignment(self.held), chance=control)}


def _missing(context: EvaluationContext) -> str:
    if context.judge is None:
        return "it needs an encoder of images and texts: give --clip"
    if not context.caption(0):
        return "it needs captions: give --captions"
    return ""


def _settings(context: EvaluationContext, part: str) -> Mapping[str, Any]:
    settings = {} if context.judge is None else dict(context.judge.settings)
    listed = context.false_captions
    return settings | {"false_captions": "opposites" if listed is None else _digest(listed)}


def _digest(listed: Turned) -> str:
    return hashlib.sha256(repr(sorted(listed.items())).encode()).hexdigest()[:16]


SPEC = MetricSpec(
    name=NAME,
    start=PositionalAlignment,
    title=lambda part: "positional alignment (PA) % ↑",
    percent=True,
    missing=_missing,
    settings=_settings,
    note=(
        "Chance of PA: the same images with each other's captions; PA of real images is what the "
        "encoder can tell at all."
    ),
)
