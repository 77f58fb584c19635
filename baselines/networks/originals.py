"""What reading the originals' checkpoints shares: errors, prefixes, counting keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from baselines.errors import UserError


class ConversionError(UserError):
    """What is given is no network of the originals, or has no form among them."""


def count(state: Iterable[str], pattern: str) -> int:
    """How many different values group 1 of `pattern` takes among the keys."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def renamed(key: str, prefixes: Mapping[str, str]) -> str:
    """`key` with the first of our prefixes that it starts with turned into the original one.

    Raises:
        ConversionError: no prefix fits.
    """
    for ours, theirs in prefixes.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise ConversionError(f"the originals have no counterpart of {key}")
