"""Values of the benchmarks' options: what does not fit is one line, before anything is measured."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from baselines import settings
from baselines.cli import number

T = TypeVar("T")


def at_least(least: int) -> Callable[[str], int]:
    """A whole number, not below `least`."""
    return number(int, settings.at_least(least))


# Seconds, hours or the like.
duration = number(
    float, settings.rule(lambda n: math.isfinite(n) and n >= 0, "a finite number, 0 or more")
)


def listed(item: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Values with commas between, each once."""

    def parse(text: str) -> list[T]:
        return list(dict.fromkeys(item(part.strip()) for part in text.split(",")))

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    """One of the names."""

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r}: expected some of {', '.join(names)}")
        return text

    return parse
