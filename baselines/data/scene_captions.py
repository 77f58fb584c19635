"""Captions of scenes, and what each of them states.

A template is a row of words and fields. `{a0}` is a whole noun phrase ("a small red circle"),
`{the0}` the same with "the", `{colour0}` and `{shape0}` its single words, `{place0}` where it is;
0 numbers the objects of the caption. `{rel01}` relates object 0 to object 1 and `{ground}` names
the background.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from baselines.data.scene_content import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    Scene,
    choose,
)

MAX_WORDS = 18

SIZE_WORDS = {
    "small": ("small", "little"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "big"),
}
PLACE_WORDS = {
    "upper left": ("in the upper left corner", "in the top left corner", "at the upper left"),
    "top": ("at the top", "at the top in the middle", "at the top center"),
    "upper right": ("in the upper right corner", "in the top right corner", "at the upper right"),
    "left": ("on the left", "on the left side", "at the left edge"),
    "middle": ("in the middle", "in the center"),
    "right": ("on the right", "on the right side", "at the right edge"),
    "lower left": ("in the lower left corner", "in the bottom left corner", "at the lower left"),
    "bottom": ("at the bottom", "at the bottom in the middle", "at the bottom center"),
    "lower right": (
        "in the lower right corner",
        "in the bottom right corner",
        "at the lower right",
    ),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
GROUND_WORDS = {
    "plain": ("on a plain background", "on a plain backdrop"),
    "gradient": ("on a shaded background", "on a fading backdrop"),
    "landscape": ("in a landscape", "before a wide landscape"),
    "checker": ("on a checkered background", "on a checkered backdrop"),
    "noise": ("on a cloudy background", "on a cloudy backdrop"),
}

_PLACED = (
    "{a0} {place0}", "{a0} is {place0}", "there is {a0} {place0}", "{place0} there is {a0}",
    "{place0} is {a0}", "{a0} sits {place0}", "the picture shows {a0} {place0}",
    "the {shape0} {place0} is {colour0}", "{the0} is {place0}", "{place0} you can see {a0}",
    "{a0} {place0} {ground}",
)  # fmt: skip
_ALONE = ("a picture of {a0}", "{a0} {ground}", "this is {a0}")
_RELATED = (
    "{a0} is {rel01} {a1}", "{a0} {rel01} {a1}", "{rel01} {a1} there is {a0}",
    "there is {a0} {rel01} {a1}", "{a0} sits {rel01} {a1}", "{the0} is {rel01} {the1}",
    "{a1} with {a0} {rel01} it", "{rel01} {the1} you can see {a0}", "{a0} {rel01} {a1} {ground}",
)  # fmt: skip
_BOTH_PLACED = ("{a0} {place0} and {a1} {place1}", "{place0} is {a0} and {place1} is {a1}")
_BOTH = ("{a0} and {a1}", "a picture of {a0} and {a1}", "{a0} and {a1} {ground}")
_CHAIN = (
    "{a0} is {rel01} {a1} and {rel02} {a2}", "{a0} {rel01} {a1} and {rel02} {a2}",
    "{a0} {rel01} {a1} and {a2} {place2}",
)  # fmt: skip
_ALL = ("{a0} and {a1} and {a2}", "there are {a0} and {a1} and {a2}")
# Templates and how often each kind is tried for a scene of one, two and three objects.
_KINDS = {
    1: ((_PLACED, 0.85), (_ALONE, 0.15)),
    2: ((_RELATED, 0.6), (_PLACED, 0.15), (_BOTH_PLACED, 0.15), (_BOTH, 0.1)),
    3: ((_RELATED, 0.4), (_CHAIN, 0.25), (_PLACED, 0.1), (_BOTH_PLACED, 0.15), (_ALL, 0.1)),
}
_SIZE_STATED = 0.5
_FIELD = re.compile(r"\{([a-z]+?)(\d*)\}")


@dataclass(frozen=True)
class StatedObject:
    """What a caption says of object `index` of its scene; None where it says nothing."""

    index: int
    colour: str
    shape: str
    size: str | None
    place: str | None


@dataclass(frozen=True)
class SceneCaption:
    """A sentence and what it states.

    `relations` holds (i, relation, j) with i and j indices of the *scene's* objects, each of which
    is among `objects`. `word_objects` has one entry per token: the scene object whose size,
    colour or shape the word names, or -1 (articles, verbs, places, relations, backgrounds).
    """

    text: str
    objects: tuple[StatedObject, ...]
    relations: tuple[tuple[int, str, int], ...]
    word_objects: tuple[int, ...]


@dataclass
class _Draft:
    """A caption being written: words with the object each names, and what has been said."""

    scene: Scene
    chosen: Sequence[int]
    rng: np.random.Generator
    words: list[tuple[str, int]] = field(default_factory=list)
    sizes: dict[int, str] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    relations: list[tuple[int, str, int]] = field(default_factory=list)

    def add(self, text: str, index: int = -1) -> None:
        self.words.extend((word, index) for word in text.split())

    def noun_phrase(self, index: int, article: str | None) -> None:
        item = self.scene.objects[index]
        described = f"{item.colour} {item.shape}"
        if self.rng.random() < _SIZE_STATED:
            self.sizes[index] = item.size
            described = f"{choose(self.rng, SIZE_WORDS[item.size])} {described}"
        self.add(article or ("an" if described[0] in "aeiou" else "a"))
        self.add(described, index)

    def fill(self, name: str, digits: str) -> bool:
        """Write one field; False if this scene cannot fill it."""
        if name == "ground":
            self.add(choose(self.rng, GROUND_WORDS[self.scene.background.kind]))
            return True
        index = self.chosen[int(digits[0])]
        item = self.scene.objects[index]
        if name in ("a", "the"):
            self.noun_phrase(index, "the" if name == "the" else None)
        elif name == "place":
            if item.stated_place is None:
                return False
            self.places[index] = item.stated_place
            self.add(choose(self.rng, PLACE_WORDS[item.stated_place]))
        elif name == "rel":
            other = self.chosen[int(digits[1])]
            known = [r for r in self.scene.relations if (r[0], r[2]) == (index, other)]
            if not known:
                return False
            self.relations.append(known[0])
            self.add(choose(self.rng, RELATION_WORDS[known[0][1]]))
        else:
            self.add(item.colour if name == "colour" else item.shape, index)
        return True

    def caption(self) -> SceneCaption:
        objects = self.scene.objects
        return SceneCaption(
            text=" ".join(word for word, _ in self.words),
            objects=tuple(
                StatedObject(
                    i, objects[i].colour, objects[i].shape, self.sizes.get(i), self.places.get(i)
                )
                for i in self.chosen
            ),
            relations=tuple(self.relations),
            word_objects=tuple(index for _, index in self.words),
        )


def describe(scene: Scene, rng: np.random.Generator, count: int) -> tuple[SceneCaption, ...]:
    """`count` different captions of `scene`, each true and at most 18 words long."""
    kinds = _KINDS[len(scene.objects)]
    captions: dict[str, SceneCaption] = {}
    while len(captions) < count:
        caption = _write(choose(rng, _pick(kinds, rng.random())), scene, rng)
        if caption is not None:
            captions.setdefault(caption.text, caption)
    return tuple(captions.values())


def vocabulary_captions() -> Iterator[str]:
    """Sentences that together hold every word a caption can hold, whatever the data set's size.

    They say nothing true of any scene and their word counts mean nothing.
    """
    for templates, _ in (kind for kinds in _KINDS.values() for kind in kinds):
        for template in templates:
            yield " ".join(_FIELD.sub(" ", template).split()) or "a"
    phrases = (SIZE_WORDS, PLACE_WORDS, RELATION_WORDS, GROUND_WORDS)
    yield from (text for table in phrases for texts in table.values() for text in texts)
    yield from (*COLOURS, *SHAPES, "a", "an", "the")


def _pick(kinds: Sequence[tuple[tuple[str, ...], float]], at: float) -> tuple[str, ...]:
    for templates, share in kinds:
        at -= share
        if at < 0:
            return templates
    return kinds[-1][0]


def _write(template: str, scene: Scene, rng: np.random.Generator) -> SceneCaption | None:
    parts, objects_named = _parse(template)
    order = sorted(range(len(scene.objects)), key=lambda _: rng.random())
    draft = _Draft(scene, order[:objects_named], rng)
    for text, name, digits in parts:
        if name is None:
            draft.add(text)
        elif not draft.fill(name, digits):
            return None
    return draft.caption() if len(draft.words) <= MAX_WORDS else None


@functools.cache
def _parse(template: str) -> tuple[tuple[tuple[str, str | None, str], ...], int]:
    parts: list[tuple[str, str | None, str]] = []
    named = 0
    for word in template.split():
        match = _FIELD.fullmatch(word)
        if match is None:
            parts.append((word, None, ""))
        else:
            parts.append((word, match[1], match[2]))
            named = max([named, *(int(digit) + 1 for digit in match[2])])
    return tuple(parts), named


if not (
    set(PLACE_WORDS) == set(PLACES)
    and set(RELATION_WORDS) == set(RELATIONS)
    and set(GROUND_WORDS) == set(BACKGROUNDS)
):
    raise AssertionError("every place, relation and background needs its words")
