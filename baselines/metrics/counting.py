"""Counting: how far is what a detector counts from what the caption counts?

TISE's counting alignment (Dinh et al. 2022) is the root mean square error over the classes that a
caption counts, averaged over images, where a network of its own counts. Here the detector of the
evaluation does, under its own name: the two are not to be compared. Which captions count what is
the file's that is given, and our reading without: number words from two to ten, or figures, before
a class's name, with at most two words between.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from baselines.data.reading import parse_json, read_lines
from baselines.data.source import DataError
from baselines.metrics.resampling import normal_interval
from baselines.metrics.soa import WORDS
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score, partners

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "counting"
# GenEval's: more than this much confidence where objects are counted.
CONFIDENCE = 0.9
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Plurals that no rule makes.
PLURALS = {"person": "people", "knife": "knives", "mouse": "mice", "sheep": "sheep"}
# Words that end what a number counts.
_BETWEEN = r"(?:(?!(?:and|or|with|of|on|in|at|to|by|the|a|an)\b)[\w-]+\s+){0,2}"
_FORM = '{"text": "two dogs and a cat", "counts": {"dog": 2}}'


def counted_by(caption: str, labels: Sequence[str]) -> dict[str, int]:
    """Read how many of which class a caption counts; "a dog" counts nothing.

    >>> counted_by("Two brown dogs and 3 cats on a bench", ("dog", "cat", "bench"))
    {'dog': 2, 'cat': 3}
    """
    found = {}
    for label in labels:
        number = next(iter(_counts(label).findall(caption.lower())), None)
        if number is not None:
            found[label] = NUMBERS.index(number) + 2 if number in NUMBERS else int(number)
    return found


@functools.cache
def _counts(label: str) -> re.Pattern[str]:
    names = (label, *WORDS.get(label, ()))
    plurals = "|".join(PLURALS.get(name, f"{re.escape(name)}(?:e?s)?") for name in names)
    return re.compile(rf"\b({'|'.join(NUMBERS)}|[2-9]|10)\s+{_BETWEEN}(?:{plurals})\b")


def read_counts(path: Path) -> dict[str, dict[str, int]]:
    """Read what captions count, by caption, one JSON object a line.

    Raises:
        DataError: naming the line and what it lacks.
    """
    found = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            counts = {str(label): int(count) for label, count in row["counts"].items()}
            found[str(row["text"])] = counts
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: {type(error).__name__} {error}; expected {_FORM}"
            ) from error
    if not found:
        raise DataError(f"{path}: no counts; expected a line like {_FORM} for each caption")
    return found


def counting_error(counted: Mapping[str, int], stated: Mapping[str, int]) -> float:
    """Give the root mean square error of one image over the classes that its caption counts.

    Args:
        counted: by class what was counted; an absent class is 0.
        stated: by class what the caption counts, one class or more.

    >>> counting_error({"dog": 3}, {"dog": 1, "cat": 2})
    2.0
    """
    squares = [(counted.get(label, 0) - count) ** 2 for label, count in stated.items()]
    return math.sqrt(sum(squares) / len(squares))


def counting_alignment(errors: Sequence[float]) -> Score:
    """Average the errors of images; lower is better, NaN without one."""
    if not errors:
        return Score(math.nan, count=0)
    values = torch.tensor(errors, dtype=torch.float64)
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    value = float(values.mean())
    return Score(value, error=error, interval=normal_interval(value, error), count=len(values))


class CountingMetric:
    """`counting`, with the partner's captions as control."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        assert context.detector is not None
        self.context, self.detector = context, context.detector
        self.partners = partners(context.pairs.class_ids[: images.pairs], context.seed)
        self.errors: list[float] = []
        self.control: list[float] = []

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        others = self.partners[batch.rows].tolist()
        stated = [self.stated(row) for row in (*batch.rows.tolist(), *others)]
        if not any(stated):
            return
        found = [
            Counter(d.label for d in each if d.score > CONFIDENCE)
            for each in batch.detections(self.detector)
        ]
        count = len(found)
        for store, asked in ((self.errors, stated[:count]), (self.control, stated[count:])):
            pairs = zip(found, asked, strict=True)
            store += [counting_error(seen, counts) for seen, counts in pairs if counts]

    def stated(self, row: int) -> Mapping[str, int]:
        """Give what the caption of a pair counts."""
        caption, listed = self.context.caption(row), self.context.counts
        return (
            counted_by(caption, self.detector.labels) if listed is None else listed.get(caption, {})
        )

    def scores(self) -> Mapping[str, Score]:
        """Give the error, or nothing where no caption counts."""
        if not self.errors:
            return {}
        control = counting_alignment(self.control).value
        return {NAME: replace(counting_alignment(self.errors), chance=control)}


def _missing(context: EvaluationContext) -> str:
    if context.detector is None:
        return "it needs a detector: give --detector"
    labels = context.counts.values() if context.counts is not None else ()
    unknown = {label for counts in labels for label in counts} - set(context.detector.labels)
    if unknown:
        return f"the detector has no label for {', '.join(sorted(unknown))}"
    return ""


def _settings(context: EvaluationContext, part: str) -> Mapping[str, Any]:
    settings: dict[str, Any] = dict(context.detector.settings) if context.detector else {}
    listed, named = context.counts, "number words"
    if listed is not None:
        named = hashlib.sha256(repr(sorted(listed.items())).encode()).hexdigest()[:16]
    return settings | {"confidence": CONFIDENCE, "counts": named}


SPEC = MetricSpec(
    name=NAME,
    start=CountingMetric,
    title=lambda part: "counting error ↓ (by the detector: not TISE's CA)",
    better="lower",
    missing=_missing,
    settings=_settings,
    note=(
        "Chance of counting: the same images with each other's captions; that of real images is "
        "the detector's own error."
    ),
)
