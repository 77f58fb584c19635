"""Values of the benchmarks' options: what does not fit is one line, before anything is measured."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def at_least(least: int) -> Callable[[str], int]:
    """A whole number, not below `least`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number}: expected {least} or more")
        return number

    return parse


def duration(text: str) -> float:
    """Seconds, hours or the like: a finite number, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text}: expected a finite number, 0 or more")
    return number


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
