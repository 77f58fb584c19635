"""Phrases of captions as regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable


def any_of(phrases: Iterable[str]) -> str:
    r"""Write the pattern of any of `phrases` as whole words, the longest first.

    >>> re.findall(any_of(["top", "on top of"]), "on top of a box at the top, unstoppable")
    ['on top of', 'top']
    """
    ordered = sorted(phrases, key=lambda phrase: -len(phrase))
    return rf"\b(?:{'|'.join(map(re.escape, ordered))})\b"
