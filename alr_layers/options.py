"""The options that are named by a word, as types and as the words themselves."""

from typing import Literal, TypeAlias, get_args

Mask: TypeAlias = Literal["soft", "hard"]
Normalization: TypeAlias = Literal["paper", "rms"]
Backend: TypeAlias = Literal["auto", "reference", "fused"]
Decode: TypeAlias = Literal["stage", "head", "generator"]

MASKS: tuple[str, ...] = get_args(Mask)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
DECODES: tuple[str, ...] = get_args(Decode)
