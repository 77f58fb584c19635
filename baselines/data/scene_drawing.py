"""Draws a scene at any size: signed distances to coverage, quantised to 255 levels.

Everything per pixel is done in float64 by additions, products, square roots and comparisons,
which IEEE 754 rounds alike everywhere, so that the quantised pictures agree between platforms.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from baselines.data.scene_content import EXTENTS, Background, Scene, SceneObject

Array = NDArray[np.float64]

# RGB in [0, 1]. Hues lie 20 degrees and more apart, each has a chroma (max - min) above 0.5.
RGB = {
    "red": (0.88, 0.14, 0.14),
    "orange": (0.98, 0.53, 0.08),
    "yellow": (0.97, 0.85, 0.14),
    "green": (0.12, 0.68, 0.24),
    "cyan": (0.16, 0.80, 0.85),
    "blue": (0.14, 0.30, 0.88),
    "purple": (0.54, 0.18, 0.80),
    "pink": (0.98, 0.38, 0.72),
}

_SHADE = 0.04
_LIGHT = 0.05
_CROSS_ARM = 0.34
_RING_HOLE = 0.52
_STAR_NOTCH = 0.46
_FIFTH = math.tau / 5


def draw_scene(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The picture of `scene`, (size, size, 3) in 0..255, row 0 at the top."""
    at = (np.arange(size) + 0.5) / size
    canvas = _background(scene.background, at)
    for item in scene.objects:
        _paint(canvas, item, at)
    return np.floor(canvas * 255 + 0.5).astype(np.uint8)


def signed_distance(shape: str, x: Array, y: Array) -> Array:
    """Distance to the outline of `shape`, negative inside, exact near the outline.

    x and y are relative to the centre of the shape's box in units of its radius, y downwards.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - 1
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 1
    if shape == "triangle":
        return _triangle(x, y)
    if shape == "diamond":
        width, height = EXTENTS["diamond"]
        return (np.abs(x) * height + np.abs(y) * width - width * height) / math.hypot(width, height)
    if shape == "star":
        return _star(x, y)
    if shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        bar = np.minimum(np.maximum(ax, ay - _CROSS_ARM + 1), np.maximum(ay, ax - _CROSS_ARM + 1))
        return bar - 1
    if shape == "ring":
        middle, half = (1 + _RING_HOLE) / 2, (1 - _RING_HOLE) / 2
        return np.abs(np.sqrt(x * x + y * y) - middle) - half
    if shape == "heart":
        return _heart(x, y)
    raise ValueError(f"unknown shape {shape!r}; expected one of {', '.join(EXTENTS)}")


def _triangle(x: Array, y: Array) -> Array:
    half = EXTENTS["triangle"][1]
    slope = math.sqrt(0.75) * np.abs(x) - 0.5 * (y + half)
    return np.maximum(slope, y - half)


def _star(x: Array, y: Array) -> Array:
    # Two reflections fold the plane onto one tenth, where the outline is the line tip to notch.
    radius = 1 / math.sin(_FIFTH)
    x = np.abs(x)
    # The box of a star is not centred on the star: its tip is farther up than its feet are down.
    y = radius - EXTENTS["star"][1] - y
    for turn in (2, 1):
        normal = (math.cos(turn * _FIFTH / 2), -math.sin(turn * _FIFTH / 2))
        beyond = np.maximum(normal[0] * x + normal[1] * y, 0.0) * 2
        x, y = np.abs(x - beyond * normal[0]), y - beyond * normal[1]
    notch = (
        radius * _STAR_NOTCH * math.sin(_FIFTH / 2),
        radius * _STAR_NOTCH * math.cos(_FIFTH / 2),
    )
    along = (notch[0], notch[1] - radius)
    return (x * -along[1] + (y - radius) * along[0]) / math.hypot(*along)


def _heart(x: Array, y: Array) -> Array:
    # A square standing on its corner, a disc upon each of its upper sides.
    unit = 1 / (0.25 + math.sqrt(0.125))
    height = EXTENTS["heart"][1]
    x = np.abs(x)
    y = height - y
    square = (x + np.abs(y - 0.5 * unit) - 0.5 * unit) * math.sqrt(0.5)
    across, up = x - 0.25 * unit, y - 0.75 * unit
    disc = np.sqrt(across * across + up * up) - math.sqrt(0.125) * unit
    return np.minimum(square, disc)


def _paint(canvas: Array, item: SceneObject, at: Array) -> None:
    size = len(at)
    left, top, right, bottom = item.box
    columns = slice(max(math.floor(left * size) - 1, 0), math.ceil(right * size) + 1)
    rows = slice(max(math.floor(top * size) - 1, 0), math.ceil(bottom * size) + 1)
    x = (at[None, columns] - item.centre[0]) / item.radius
    y = (at[rows, None] - item.centre[1]) / item.radius
    distance = signed_distance(item.shape, x, y) * (item.radius * size)
    coverage = np.clip(0.5 - distance, 0.0, 1.0)[:, :, None]
    light = 1 + _SHADE * item.shade - _LIGHT * np.clip(y, -1.0, 1.0)
    colour = np.minimum(light[:, :, None] * np.array(RGB[item.colour]), 1.0)
    window = canvas[rows, columns]
    window += coverage * (colour - window)


def _background(background: Background, at: Array) -> Array:
    size = len(at)
    first, second = (np.array(colour) for colour in background.colours)
    if background.kind == "plain":
        return np.broadcast_to(first, (size, size, 3)).copy()
    share = {
        "gradient": _gradient,
        "landscape": _landscape,
        "checker": _checker,
        "noise": _noise,
    }[background.kind](background, at)
    canvas = np.empty((size, size, 3))
    for channel in range(3):
        np.multiply(share, second[channel] - first[channel], out=canvas[:, :, channel])
        canvas[:, :, channel] += first[channel]
    if background.kind == "landscape":
        # Both halves grow lighter towards the horizon, as haze makes them.
        canvas += (0.08 * (at - 0.5) * (1 - 2 * share.mean(axis=1)))[:, None, None]
    return canvas


def _gradient(background: Background, at: Array) -> Array:
    across, down = (2 * number - 1 for number in background.numbers[:2])
    reach = max(abs(across) + abs(down), 1e-3)
    return 0.5 + (across * (at[None, :] - 0.5) + down * (at[:, None] - 0.5)) / reach


def _landscape(background: Background, at: Array) -> Array:
    level, bend, crest, _ = background.numbers
    horizon = 0.45 + 0.3 * level + 0.5 * (bend - 0.4) * (at - crest) ** 2
    return np.clip((at[:, None] - horizon[None, :]) * len(at) + 0.5, 0.0, 1.0)


def _checker(background: Background, at: Array) -> Array:
    cells = 3 + int(4 * background.numbers[0])
    waves = []
    for offset in background.numbers[1:3]:
        # The mean of a square wave over each pixel, from its integral, a triangle wave.
        edges = np.arange(len(at) + 1) / len(at) * cells + 2 * offset
        integral = np.abs(edges - 2 * np.floor(edges / 2) - 1)
        waves.append(-np.diff(integral) * len(at) / cells)
    return 0.5 + 0.5 * waves[0][:, None] * waves[1][None, :]


def _noise(background: Background, at: Array) -> Array:
    rng = np.random.Generator(np.random.PCG64(background.texture))
    share = np.zeros((len(at), len(at)))
    for cells, weight in ((3, 0.55), (7, 0.3), (15, 0.15)):
        lattice = rng.random((cells + 1, cells + 1)) * weight
        below = (at * cells).astype(np.int64)
        part = at * cells - below
        part = part * part * (3 - 2 * part)
        rows = lattice[below] + part[:, None] * (lattice[below + 1] - lattice[below])
        share += rows[:, below] + part[None, :] * (rows[:, below + 1] - rows[:, below])
    return share
