"""What a scene holds: objects, where they are, which combinations are kept for testing."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
SIZES = ("small", "medium", "large")
PLACES = (
    "upper left", "top", "upper right",
    "left", "middle", "right",
    "lower left", "bottom", "lower right",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
BACKGROUNDS = ("plain", "gradient", "landscape", "checker", "noise")

# Half of an object's longer side, as a share of the picture's side, from and to.
RADII = {"small": (0.130, 0.145), "medium": (0.180, 0.195), "large": (0.230, 0.250)}
SIZE_LIMITS = (0.1625, 0.2125)

# The picture is read as a 3 by 3 grid. A place is stated only of centres this far from the lines.
PLACE_LINES = (0.41, 0.59)
PLACE_MARGIN = 0.03
# A relation is stated only if its axis outweighs the other by this factor.
RELATION_DOMINANCE = 1.5

EDGE = 0.02
GAP = 0.06
HELD_OUT_PERCENT = 15

# Half width and half height of every shape in units of its radius; the longer one is 1.
EXTENTS = {
    "circle": (1.0, 1.0),
    "square": (1.0, 1.0),
    "triangle": (1.0, 0.75**0.5),
    "diamond": (0.72, 1.0),
    "star": (1.0, 0.9510565162951536),
    "cross": (1.0, 1.0),
    "ring": (1.0, 1.0),
    "heart": (1.0, 0.9142135623730951),
}

# Left, top, right, bottom in shares of the picture's side.
CornerBox = tuple[float, float, float, float]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class SceneObject:
    """One object; positions and lengths are shares of the picture's side, y downwards.

    `centre` is the centre of the box, `radius` half of the box's longer side and `shade` in
    [-1, 1] how much lighter or darker than its colour's mean the object is.
    """

    colour: str
    shape: str
    size: str
    centre: tuple[float, float]
    radius: float
    shade: float = 0.0

    @property
    def box(self) -> CornerBox:
        """The tight box (left, top, right, bottom)."""
        (x, y), (width, height) = self.centre, EXTENTS[self.shape]
        width, height = width * self.radius, height * self.radius
        return (x - width, y - height, x + width, y + height)

    @property
    def place(self) -> str:
        """The cell of the 3 by 3 grid that holds the centre."""
        return place_of(self.centre)

    @property
    def stated_place(self) -> str | None:
        """The same, or None where the centre is too near a grid line to say so."""
        near = min(abs(c - line) for c in self.centre for line in PLACE_LINES)
        return None if near < PLACE_MARGIN else self.place


@dataclass(frozen=True)
class Background:
    """A muted background: two colours (RGB in [0, 1]), four numbers in [0, 1) and a texture seed.

    What the numbers mean depends on `kind`: a direction, a horizon, a number of cells.
    """

    kind: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    numbers: tuple[float, float, float, float]
    texture: int


@dataclass(frozen=True)
class Scene:
    """Objects (none overlap, no two share both colour and shape) before a background."""

    objects: tuple[SceneObject, ...]
    background: Background

    @property
    def relations(self) -> tuple[tuple[int, str, int], ...]:
        """Every (i, relation, j) clear enough to be stated: object i is left of object j, ..."""
        return tuple(
            (i, relation_of(first.centre, second.centre), j)
            for i, first in enumerate(self.objects)
            for j, second in enumerate(self.objects)
            if i != j and _clear(first.centre, second.centre)
        )

    @property
    def boxes(self) -> tuple[CornerBox, ...]:
        """The tight box of every object."""
        return tuple(item.box for item in self.objects)

    @property
    def class_id(self) -> int:
        """What the objects are and where, as a number in [0, 2^48), the same on every machine.

        Two scenes share it exactly if they hold the same multiset of (colour, shape, size, place)
        with the same relations between them: then no statement about objects tells them apart, and
        a contrastive loss must not take the caption of one as wrong for the other.
        """
        names = [f"{o.colour} {o.shape} {o.size} {o.place}" for o in self.objects]
        relations = [
            f"{names[i]} {relation_of(first.centre, second.centre)} {names[j]}"
            for i, first in enumerate(self.objects)
            for j, second in enumerate(self.objects)
            if i != j
        ]
        return _stable_hash("; ".join(sorted(names) + sorted(relations)), bits=48)

    def combinations(self) -> Iterator[tuple[str, str, str]]:
        """Every (colour, shape, position) shown, position being a place or a relation."""
        for i, item in enumerate(self.objects):
            yield item.colour, item.shape, item.place
            for j, other in enumerate(self.objects):
                if i != j:
                    yield item.colour, item.shape, relation_of(item.centre, other.centre)


def place_of(centre: tuple[float, float]) -> str:
    """The cell of the 3 by 3 grid that holds a point."""
    column, row = (sum(c > line for line in PLACE_LINES) for c in centre)
    return PLACES[3 * row + column]


def relation_of(first: tuple[float, float], second: tuple[float, float]) -> str:
    """The relation of `first` to `second` along the axis on which they lie further apart."""
    across, down = first[0] - second[0], first[1] - second[1]
    if abs(across) >= abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def size_of(radius: float) -> str:
    """The size word of an object whose longer side is twice `radius`."""
    return SIZES[sum(radius > limit for limit in SIZE_LIMITS)]


@functools.cache
def held_out() -> frozenset[tuple[str, str, str]]:
    """The (colour, shape, position) that no training scene shows and every test scene does.

    A fixed hash chooses some 15 % of all, whatever the seed of a data set, so that a model trained
    on one seed meets its held-out combinations in the test scenes of every other.
    """
    return frozenset(
        (colour, shape, position)
        for colour in COLOURS
        for shape in SHAPES
        for position in PLACES + RELATIONS
        if _stable_hash(f"{colour} {shape} {position}", bits=48) % 100 < HELD_OUT_PERCENT
    )


def sample_scene(
    rng: np.random.Generator, *, max_objects: int, backgrounds: Sequence[str], test: bool
) -> Scene:
    """Draw a scene of 1 to `max_objects` objects (each number equally often) from `rng`.

    A training scene shows no held-out combination, a test scene at least one. Scenes of several
    objects have at least one relation that is clear enough to be stated.
    """
    count = 1 + int(rng.random() * max_objects)
    background = _sample_background(rng, backgrounds)
    while True:
        layout = _sample_layout(rng, count)
        # Another choice of colours is cheaper than another layout, which seldom fits.
        for _ in range(4):
            scene = Scene(_sample_objects(rng, layout), background)
            shown = set(scene.combinations())
            distinct = len({(item.colour, item.shape) for item in scene.objects}) == count
            if distinct and test == (not held_out().isdisjoint(shown)):
                return scene


def choose(rng: np.random.Generator, options: Sequence[Choice]) -> Choice:
    """One of `options`, each equally likely."""
    return options[int(rng.random() * len(options))]


def _sample_layout(
    rng: np.random.Generator, count: int
) -> list[tuple[str, float, tuple[float, float]]]:
    """Size, radius and centre of `count` objects that lie apart and are clearly related."""
    while True:
        placed: list[tuple[str, float, tuple[float, float]]] = []
        for _ in range(count):
            size = choose(rng, SIZES)
            low, high = RADII[size]
            radius = low + (high - low) * rng.random()
            for _ in range(4):
                centre = _sample_centre(rng, radius, single=count == 1)
                if all(_apart(radius, centre, *other[1:]) for other in placed):
                    placed.append((size, radius, centre))
                    break
            else:
                break
        centres = [centre for _, _, centre in placed]
        clear = any(_clear(a, b) for i, a in enumerate(centres) for b in centres[:i])
        if len(placed) == count and (count == 1 or clear):
            return placed


def _sample_objects(
    rng: np.random.Generator, layout: Sequence[tuple[str, float, tuple[float, float]]]
) -> tuple[SceneObject, ...]:
    return tuple(
        SceneObject(
            choose(rng, COLOURS), choose(rng, SHAPES), size, centre, radius, 2 * rng.random() - 1
        )
        for size, radius, centre in layout
    )


def _sample_centre(rng: np.random.Generator, radius: float, *, single: bool) -> tuple[float, float]:
    """A centre anywhere, or for a single object in a place that can be stated."""
    low, high = PLACE_LINES
    edges = radius + EDGE, 1 - radius - EDGE
    bands = (
        (edges[0], low - PLACE_MARGIN),
        (low + PLACE_MARGIN, high - PLACE_MARGIN),
        (high + PLACE_MARGIN, edges[1]),
    )
    (left, right), (top, bottom) = (choose(rng, bands) if single else edges for _ in range(2))
    return left + (right - left) * rng.random(), top + (bottom - top) * rng.random()


def _apart(
    radius: float, centre: tuple[float, float], radius2: float, centre2: tuple[float, float]
) -> bool:
    reach = radius + radius2 + GAP
    return any(abs(a - b) >= reach for a, b in zip(centre, centre2, strict=True))


def _clear(first: tuple[float, float], second: tuple[float, float]) -> bool:
    across, down = abs(first[0] - second[0]), abs(first[1] - second[1])
    return max(across, down) >= RELATION_DOMINANCE * min(across, down)


# Muted colours: their channels lie within 0.12 of each other, those of objects 0.5 and more apart.
_PALE = (
    (0.86, 0.86, 0.85), (0.90, 0.87, 0.82), (0.80, 0.85, 0.88), (0.87, 0.82, 0.86),
    (0.82, 0.87, 0.82), (0.72, 0.73, 0.75), (0.76, 0.73, 0.68), (0.69, 0.74, 0.77),
)  # fmt: skip
_DARK = (
    (0.52, 0.53, 0.55), (0.57, 0.54, 0.50), (0.48, 0.54, 0.56), (0.53, 0.57, 0.52),
    (0.40, 0.41, 0.44), (0.44, 0.41, 0.39), (0.30, 0.32, 0.36), (0.36, 0.33, 0.36),
)  # fmt: skip
_SKY = ((0.78, 0.85, 0.90), (0.88, 0.88, 0.92), (0.90, 0.86, 0.82), (0.70, 0.76, 0.81))
_GROUND = ((0.56, 0.60, 0.50), (0.60, 0.55, 0.49), (0.47, 0.51, 0.46), (0.67, 0.63, 0.56))


def _sample_background(rng: np.random.Generator, kinds: Sequence[str]) -> Background:
    kind = choose(rng, kinds)
    if kind == "landscape":
        colours = (choose(rng, _SKY), choose(rng, _GROUND))
    elif kind == "checker":
        # Neighbouring cells differ enough to be seen and little enough to stay a background.
        first = choose(rng, _PALE + _DARK[:4])
        step = 0.09 + 0.05 * rng.random()
        colours = (first, (first[0] - step, first[1] - step, first[2] - step))
    else:
        colours = (choose(rng, _PALE + _DARK), choose(rng, _PALE + _DARK))
    numbers = (rng.random(), rng.random(), rng.random(), rng.random())
    return Background(kind, colours, numbers, int(rng.random() * 2**32))


def _stable_hash(text: str, *, bits: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: bits // 8], "big")
