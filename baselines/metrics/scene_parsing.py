"""Finds the objects of a scene from its pixels alone: hue, components, shape templates."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from baselines.data.scene_content import COLOURS, SHAPES, place_of, size_of
from baselines.data.scene_drawing import RGB, signed_distance

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMALLEST = 32

# A pixel counts as covered by an object from half of its colour's chroma on, whatever it is
# mixed with; mixing with a muted background hardly turns the hue.
_COVERED = 0.5
_CORE = 0.75
_HUE_TOLERANCE = math.radians(22)
# Largest distance (RGB in [0, 1]) between the mean of an object's core and its colour.
_COLOUR_TOLERANCE = 0.3
# Components below this share of the picture are specks; the smallest object has 1.7 %.
_SMALLEST_AREA = 0.006
# Width of an outline from half to three quarters of its chroma: pixels, or a share of the side.
_SOFTEST_PIXELS, _SOFTEST_SHARE = 1.0, 0.02
_MARGIN = 2
# No object of a scene is larger than a quarter; a picture of one colour is not a square.
_LARGEST_RADIUS = 0.35
# Objects that span more pixels are averaged down before they are compared with the shapes.
_LONGEST = 48
# Least overlap with the template: what is below is a blob. True objects: see the module's tests.
_LEAST_OVERLAP = 0.8


@dataclass(frozen=True)
class FoundObject:
    """One object seen in a picture; lengths are shares of the picture's side.

    `overlap` (intersection over union) says how well it fits its shape, 1 being perfectly.
    """

    colour: str
    shape: str
    size: str
    place: str
    centre: tuple[float, float]
    radius: float
    overlap: float


class _Fit(NamedTuple):
    """The best fitting shape, its centre (x, y) and radius in pixels, the overlap with every."""

    shape: str
    centre: tuple[float, float]
    radius: float
    overlaps: Mapping[str, float]

    @property
    def overlap(self) -> float:
        return self.overlaps[self.shape]


@dataclass(frozen=True)
class Component:
    """A connected region of one colour, whether or not it is an object.

    Lengths are shares of the picture's side, `area` of the picture. box: (left, top, right, bottom)
    of its pixels; shape: whose template overlaps it best, and where and how large that is;
    overlaps: with every template, by shape; sharp: whether `parse_scene` takes it for an object.
    """

    colour: str
    area: float
    box: tuple[float, float, float, float]
    shape: str
    centre: tuple[float, float]
    radius: float
    overlaps: Mapping[str, float]
    sharp: bool

    @property
    def place(self) -> str:
        """The cell of the 3 by 3 grid that holds the centre."""
        return place_of(self.centre)

    @property
    def size(self) -> str:
        """The size word of its best template."""
        return size_of(self.radius)


def parse_scene(image: Tensor) -> tuple[FoundObject, ...]:
    """Find every object that can be recognised in `image`, largest first.

    An object is a connected region of one of the eight colours, evenly coloured, with a sharp
    outline, whose mask overlaps the template of one of the eight shapes well.

    Args:
        image: (3, S, S) in [-1, 1], S at least 32.

    Raises:
        ValueError: the shape is another, or the picture too small to tell shapes apart.
    """
    return objects_of(find_components(image))


def objects_of(components: Iterable[Component]) -> tuple[FoundObject, ...]:
    """Take those components that are objects, largest first; see `parse_scene`."""
    found = [
        FoundObject(c.colour, c.shape, c.size, c.place, c.centre, c.radius, c.overlaps[c.shape])
        for c in components
        if c.sharp
    ]
    return tuple(sorted(found, key=lambda seen: -seen.radius))


def find_components(image: Tensor) -> list[Component]:
    """Find every coloured region of `image`, sharp or not, largest first.

    Args and errors as of `parse_scene`.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2]:
        raise ValueError(f"image has shape {tuple(image.shape)}; expected (3, S, S)")
    if image.shape[1] < SMALLEST:
        raise ValueError(f"image is {image.shape[1]} pixels wide; shapes need at least {SMALLEST}")
    pixels = (image.detach().double().cpu().numpy() + 1) / 2
    side = pixels.shape[1]
    colours, coverage = _segment(pixels)
    least = _SMALLEST_AREA * side * side
    found = []
    for number in np.flatnonzero(np.bincount(colours[colours >= 0], minlength=1) >= least):
        labels, _ = ndimage.label(colours == number)
        areas = np.bincount(labels.ravel())
        for component, window in enumerate(ndimage.find_objects(labels), start=1):
            if areas[component] < least:
                continue
            rows, columns = (slice(max(s.start - _MARGIN, 0), s.stop + _MARGIN) for s in window)
            mask = labels[rows, columns] == component
            cut = mask, coverage[rows, columns], pixels[:, rows, columns]
            fit, sharp = _recognise(COLOURS[number], *cut, side)
            x, y = columns.start + fit.centre[0], rows.start + fit.centre[1]
            found.append(
                Component(
                    COLOURS[number],
                    float(areas[component]) / side**2,
                    _box(window, side),
                    fit.shape,
                    (x / side, y / side),
                    fit.radius / side,
                    fit.overlaps,
                    sharp,
                )
            )
    return sorted(found, key=lambda component: -component.area)


def _box(window: tuple[slice, slice], side: int) -> tuple[float, float, float, float]:
    rows, columns = window
    return columns.start / side, rows.start / side, columns.stop / side, rows.stop / side


def _segment(pixels: Array) -> tuple[NDArray[np.int64], Array]:
    """Number of the colour of every pixel (-1: none) and how much of its chroma it has."""
    hues, chromas = _references()
    hue, chroma = _hue_and_chroma(pixels)
    colour = np.full(chroma.shape, -1)
    coverage = np.zeros(chroma.shape)
    vivid = chroma >= _COVERED * np.min(chromas)
    apart = np.abs(hue[vivid][:, None] - hues)
    apart = np.minimum(apart, math.tau - apart)
    nearest = apart.argmin(axis=1)
    share = chroma[vivid] / chromas[nearest]
    near = np.take_along_axis(apart, nearest[:, None], axis=1)[:, 0] <= _HUE_TOLERANCE
    colour[vivid] = np.where(near & (share >= _COVERED), nearest, -1)
    coverage[vivid] = share
    return colour, coverage


def _hue_and_chroma(pixels: Array) -> tuple[Array, Array]:
    red, green, blue = pixels
    across, up = red - (green + blue) / 2, math.sqrt(0.75) * (green - blue)
    return np.arctan2(up, across), np.hypot(across, up)


@functools.cache
def _references() -> tuple[Array, Array]:
    return _hue_and_chroma(np.array([RGB[colour] for colour in COLOURS]).T)


def _recognise(
    colour: str, mask: Mask, coverage: Array, pixels: Array, side: int
) -> tuple[_Fit, bool]:
    """Fit the component `mask` to the shapes, and say whether it is an object.

    All are cut out with a margin of two pixels.
    """
    core = mask & (coverage >= _CORE)
    area, core_area = int(mask.sum()), int(core.sum())
    inside = pixels[:, core if core_area else mask].mean(axis=1)
    best = _fit(_alpha(mask, coverage, pixels, inside))
    rim = area - int(ndimage.binary_erosion(mask).sum())
    sharp = (
        core_area > 0
        and (area - core_area) / rim <= max(_SOFTEST_PIXELS, _SOFTEST_SHARE * side)
        and np.linalg.norm(inside - np.array(RGB[colour])) <= _COLOUR_TOLERANCE
        and best.overlap >= _LEAST_OVERLAP
        and best.radius <= _LARGEST_RADIUS * side
    )
    return best, bool(sharp)


def _alpha(mask: Mask, coverage: Array, pixels: Array, inside: Array) -> Array:
    """How much of every pixel the object covers: where its colour lies between in- and outside."""
    near = ndimage.binary_dilation(mask, np.ones((3, 3)))
    around = ~near & (coverage == 0)
    if not around.any():
        return mask.astype(np.float64)
    outside = pixels[:, around].mean(axis=1)
    span = inside - outside
    alpha = np.tensordot(span, pixels - outside[:, None, None], axes=1) / (span @ span)
    return np.clip(alpha, 0.0, 1.0) * near


def _fit(alpha: Array) -> _Fit:
    """The shape that overlaps `alpha` best when drawn with the same area about the same centroid.

    Sums over anti-aliased pixels tell area and centroid far more finely than a pixel, which lets
    small objects be told apart that a bounding box would blur.
    """
    step = -(-max(alpha.shape) // _LONGEST)
    if step > 1:
        rows, columns = (step * (length // step) for length in alpha.shape)
        cells = alpha[:rows, :columns].reshape(rows // step, step, columns // step, step)
        alpha = cells.mean(axis=(1, 3))
    total = alpha.sum()
    y, x = np.ogrid[0.5 : alpha.shape[0], 0.5 : alpha.shape[1]]
    centroid = (alpha.sum(axis=0) @ x[0] / total, alpha.sum(axis=1) @ y[:, 0] / total)
    overlaps: dict[str, float] = {}
    places: dict[str, tuple[tuple[float, float], float]] = {}
    for shape, (area, drop) in _moments().items():
        radius = math.sqrt(total / area)
        centre = (centroid[0], centroid[1] - drop * radius)
        distance = signed_distance(shape, (x - centre[0]) / radius, (y - centre[1]) / radius)
        drawn = np.clip(0.5 - distance * radius, 0.0, 1.0)
        both = np.minimum(drawn, alpha).sum()
        overlaps[shape] = float(both / (drawn.sum() + total - both))
        places[shape] = (centre[0] * step, centre[1] * step), radius * step
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return _Fit(best, *places[best], overlaps)


@functools.cache
def _moments() -> dict[str, tuple[float, float]]:
    """Area of every shape of radius 1, and how far its centroid lies below its box's centre."""
    at = (np.arange(400) + 0.5) / 200 - 1
    x, y = at[None, :], at[:, None]
    moments = {}
    for shape in SHAPES:
        drawn = np.clip(0.5 - signed_distance(shape, x, y) * 200, 0.0, 1.0)
        moments[shape] = (float(drawn.sum() / 200**2), float((drawn * y).sum() / drawn.sum()))
    return moments
