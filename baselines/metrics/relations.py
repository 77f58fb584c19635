"""Spatial relations of two boxes, by the rules under which they are published.

A box is (left, top, right, bottom), y downwards, in pixels or shares of the side. Each rule gives
the relations of the first box to the second, of "left of", "right of", "above" and "below": none,
one, or one on each axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from baselines.data.scene_content import CornerBox, relation_of

Rule = Callable[[CornerBox, CornerBox], frozenset[str]]
GENEVAL_SHRINK, GENEVAL_SHARE = 0.1, 0.5
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def geneval(first: CornerBox, second: CornerBox) -> frozenset[str]:
    """Relate two boxes as GenEval does.

    The offset of the centres is shrunk on each axis by a tenth of both boxes' extents, not below 0,
    and divided by the length of the raw offset; a relation holds beyond a half of that. A diagonal
    may satisfy two, overlapping boxes none.

    >>> sorted(geneval((0, 0, 2, 2), (9, 9, 11, 11)))
    ['above', 'left of']
    >>> sorted(geneval((0, 0, 2, 2), (0.2, 0, 2.2, 2)))
    []
    """
    offset = _offset(first, second)
    length = math.hypot(*offset)
    if not length:
        return frozenset()
    extents = zip(_extent(first), _extent(second), strict=True)
    shrunk = [
        math.copysign(max(abs(part) - GENEVAL_SHRINK * (a + b), 0.0), part) / length
        for part, (a, b) in zip(offset, extents, strict=True)
    ]
    return _named(shrunk[0], shrunk[1], GENEVAL_SHARE)


def visor(first: CornerBox, second: CornerBox) -> frozenset[str]:
    """Relate two boxes as VISOR does: by the signs of the offset of their centres, on each axis.

    >>> sorted(visor((0, 0, 2, 2), (9, 1, 11, 3)))
    ['above', 'left of']
    """
    return _named(*_offset(first, second), 0.0)


def dominant_axis(first: CornerBox, second: CornerBox) -> frozenset[str]:
    """Relate two boxes along the axis on which their centres lie further apart: always one.

    The rule that captions of `scenes` are written by.

    >>> sorted(dominant_axis((0, 0, 2, 2), (9, 1, 11, 3)))
    ['left of']
    """
    return frozenset({relation_of(centre_of(first), centre_of(second))})


RULES: dict[str, Rule] = {"geneval": geneval, "visor": visor, "dominant_axis": dominant_axis}
# What two boxes of no relation to the caption satisfy of one stated relation, on average.
CHANCE = {"visor": 0.5, "dominant_axis": 0.25}


def centre_of(box: CornerBox) -> tuple[float, float]:
    """Give the centre (x, y) of a box."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2


def _offset(first: CornerBox, second: CornerBox) -> tuple[float, float]:
    (x, y), (other_x, other_y) = centre_of(first), centre_of(second)
    return x - other_x, y - other_y


def _extent(box: CornerBox) -> tuple[float, float]:
    left, top, right, bottom = box
    return right - left, bottom - top


def _named(across: float, down: float, least: float) -> frozenset[str]:
    holds = {
        "left of": across < -least,
        "right of": across > least,
        "above": down < -least,
        "below": down > least,
    }
    return frozenset(name for name, held in holds.items() if held)
