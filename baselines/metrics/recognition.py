"""Which words matching encoders tell apart on real images, by exchanging one word of a caption.

Retrieval recall says how well whole captions are told apart. What the encoders see of a single
property (a shape, a colour, a place) it does not say, and no generator learns from them what they
do not see. Here every caption competes with itself under every other word of the kind: the score
is the share of captions that fit their image best. Our reading; nothing of the kind is published.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from baselines import losses
from baselines.data.scene_captions import PLACE_WORDS, RELATION_WORDS, SIZE_WORDS
from baselines.data.scene_content import COLOURS, SHAPES
from baselines.data.source import Source
from baselines.data.vocabulary import Vocabulary
from baselines.metrics import colours
from baselines.metrics.phrases import any_of
from baselines.metrics.resampling import share
from baselines.metrics.spec import Score
from baselines.runs import Encoders

Meanings = Sequence[Sequence[str]]  # of one kind: the phrases that mean the same, for each meaning


def each(words: Iterable[str]) -> Meanings:
    """Meanings of one word each."""
    return [[word] for word in words]


SCENE_KINDS: Mapping[str, Meanings] = {
    "colour": each(COLOURS),
    "shape": each(SHAPES),
    "size": list(SIZE_WORDS.values()),
    "place": list(PLACE_WORDS.values()),
    "relation": list(RELATION_WORDS.values()),
}
PHOTOGRAPH_KINDS: Mapping[str, Meanings] = {"colour": each((*colours.COLOURS, "grey"))}


def exchanged(caption: str, meanings: Meanings) -> list[list[str]]:
    """For every phrase of the kind: the caption, then the caption with each other meaning there.

    Only phrases of as many words take its place: DAMSM's score of words grows with their number. A
    phrase before "of" ("on the left of") says something else and is passed over.

    >>> exchanged("A red star", [["red"], ["blue"], ["dark green"]])
    [['A red star', 'A blue star']]
    """
    places = {phrase: place for place, same in enumerate(meanings) for phrase in same}
    pattern = any_of(places) + r"(?! of\b)"
    cases = []
    for match in re.finditer(pattern, caption, re.IGNORECASE):
        found = match.group().lower()
        others = []
        for place, same in enumerate(meanings):
            fitting = [phrase for phrase in same if len(phrase.split()) == len(found.split())]
            if place != places[found] and fitting:
                others.append(caption[: match.start()] + fitting[0] + caption[match.end() :])
        if others:
            cases.append([caption, *others])
    return cases


class _Question(NamedTuple):
    """An image and captions of as many words, of which the first is its own."""

    image: int
    captions: list[list[int]]


def questions(
    source: Source, meanings: Meanings, vocabulary: Vocabulary, *, images: int, max_words: int
) -> list[_Question]:
    """Ask of every image the first of its captions that says something of the kind.

    Captions with words outside the vocabulary, or of more than `max_words`, are not asked: what was
    exchanged might not be read.
    """

    def is_read(caption: str) -> bool:
        return (
            not vocabulary.unknown_words(caption) and len(vocabulary.encode(caption)) <= max_words
        )

    found = []
    for index in range(min(images, len(source))):
        for caption in source.captions(index):
            cases = [list(filter(is_read, case)) for case in exchanged(caption, meanings)]
            cases = [case for case in cases if len(case) > 1 and case[0] == caption]
            found += [
                _Question(index, [vocabulary.encode(text) for text in case]) for case in cases
            ]
            if cases:
                break
    return found


@torch.inference_mode()
def recognition(
    encoders: Encoders,
    source: Source,
    meanings: Meanings,
    *,
    images: int,
    max_words: int,
    gamma1: float,
    gamma2: float,
    device: torch.device,
) -> dict[str, Score]:
    """Measure how often an image's own caption fits it better than all with another meaning.

    Args:
        encoders: of one space, on `device`.
        source: a split they were not trained on.
        meanings: of the kind.
        images: how many of the split, from its first on.
        max_words: of a caption.
        gamma1: of DAMSM's score of words, how sharply a word attends to regions.
        gamma2: of the same, how sharply the best words are chosen.
        device: where to.

    Returns:
        "words" and "sentence", in 0..1, by DAMSM's two scores; `chance` is that of a choice by lot,
        an equal score counts as wrong. NaN where no caption says anything of the kind.
    """
    asked = questions(source, meanings, encoders.vocabulary, images=images, max_words=max_words)
    chance = sum(1 / len(question.captions) for question in asked) / len(asked) if asked else None
    encoders.text.eval()
    encoders.image.eval()
    right: dict[str, list[float]] = {"words": [], "sentence": []}  # by image
    stated = []
    for image, of_image in itertools.groupby(asked, key=lambda question: question.image):
        pixels = source.image(image, encoders.config.input_size)
        features = encoders.image(pixels[None].to(device))
        hits: dict[str, float] = dict.fromkeys(right, 0.0)
        own = list(of_image)
        for question in own:
            ids = torch.tensor(question.captions)
            lengths = torch.full((len(ids),), ids.shape[1])
            text = encoders.text(ids.to(device), lengths)
            words = losses.word_scores(
                features.regions, text.words, lengths, gamma1=gamma1, gamma2=gamma2
            )
            hits["words"] += _first_is_best(words[0])
            hits["sentence"] += _first_is_best(
                losses.sentence_scores(features.code, text.sentence)[0]
            )
        stated.append(float(len(own)))
        for name, count in hits.items():
            right[name].append(count)
    found = {}
    for name, counts in right.items():
        value, error, interval = share(torch.tensor(counts), torch.tensor(stated))
        found[name] = Score(value, error=error, interval=interval, chance=chance, count=len(asked))
    return found


def _first_is_best(scores: Tensor) -> float:
    return float((scores[0] > scores[1:]).all())
