"""The contract of a data set: captioned images of one split."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from baselines.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from baselines.data.files import Record
    from baselines.data.scene_captions import SceneCaption
    from baselines.data.scene_content import CornerBox

SPLITS = ("train", "test")


class DataError(UserError):
    """A data set cannot be used; the message names the file and the remedy."""


class Problem(NamedTuple):
    """One thing wrong with one image; `caption` numbers the caption if only that is broken."""

    kind: str
    key: str
    detail: str
    caption: int | None = None


class SceneFacts(NamedTuple):
    """What is known of an image beyond its pixels.

    captions: what each caption states, in their order; boxes: of the objects they number, in
    shares of the image's side.
    """

    captions: tuple[SceneCaption, ...]
    boxes: tuple[CornerBox, ...]


@runtime_checkable
class Source(Protocol):
    """Captioned images of one split, by index.

    Derive from `BaseSource`, which answers everything but `__len__`, `pixels`, `captions` and
    `key`. An instance is copied to worker processes, so it must pickle, and what it returns for an
    image must not depend on what was read before.
    """

    name: str
    split: str
    # What people should know of how the data were read, a sentence each.
    notes: tuple[str, ...]
    # How its captions are split into words when a vocabulary is built: "ascii" or "unicode".
    tokens: str

    def __len__(self) -> int:
        """Number of images."""
        ...

    def pixels(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """(3, size, size) uint8.

        With `rng` the training augmentation is drawn from it alone; without, the transform is the
        deterministic one of evaluation.

        Raises:
            DataError: the image cannot be read; names it.
        """
        ...

    def image(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """The same pixels as (3, size, size) float32 in [-1, 1]."""
        ...

    def captions(self, index: int) -> tuple[str, ...]:
        """The raw captions of an image, one or more."""
        ...

    def key(self, index: int) -> str:
        """Unique in the data set; a file name once "/" is replaced."""
        ...

    def class_id(self, index: int) -> int:
        """Images of equal class id are never each other's negative."""
        ...

    def order(self, rng: torch.Generator) -> Tensor:
        """(len,) int64: the order of an epoch, drawn from `rng` alone."""
        ...

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with what is shown, not with where it lies.

        It must be the same on every machine and cheap enough to ask at every start: images are
        told apart by name and size, not by their bytes.
        """
        ...

    @property
    def scanned(self) -> Sequence[int]:
        """The images that a scan looks at before training; a note says so if it is not all."""
        ...

    def verify(self, index: int) -> list[Problem]:
        """Everything wrong with an image and what belongs to it, but for its captions' words."""
        ...

    def vocabulary_captions(self) -> Iterable[str] | None:
        """Sentences with every word a caption can have, where they can be told without reading all.

        Their word counts mean nothing. None: the words are those of all captions.
        """
        ...

    def scene_facts(self, index: int) -> SceneFacts | None:
        """What captions state and where objects are; None for every image where it is not known."""
        ...

    def record(self, index: int) -> Record | None:
        """The file of an image and what is annotated of it; None where images are no files."""
        ...

    def content(self, index: int) -> bytes:
        """Bytes that change with an image's own; none where it follows from key and captions."""
        ...


def require_split(split: str) -> None:
    """Refuse a split that no data set has.

    Raises:
        DataError: names the splits.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r}: expected one of {', '.join(SPLITS)}")


def to_floats(pixels: Tensor) -> Tensor:
    """Map uint8 in 0..255 to float32 in [-1, 1], with the same bits on every device.

    >>> import torch
    >>> to_floats(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([-1.0000, -0.6000,  1.0000])
    """
    import torch

    # CUDA divides by a number through its reciprocal, but by a tensor as IEEE 754 says.
    half = torch.tensor(127.5, device=pixels.device)
    return pixels.to(torch.float32).div_(half).sub_(1.0)


def digest(parts: Iterable[Any]) -> str:
    """Hash plain values (numbers, strings, lists of them) in order to 16 hexadecimal digits.

    >>> digest(["a", ["b", 1]]), digest([["a", "b"], 1])
    ('10bd7610b7c09af8', 'ca825d431266be56')
    """
    total = hashlib.blake2b(digest_size=8)
    for part in parts:
        total.update(json.dumps(part).encode() + b"\n")
    return total.hexdigest()


class BaseSource:
    """What a `Source` answers unless it knows better.

    Args:
        name: of the data set.
        split: "train" or "test".
        tokens: how its captions are split into words, see `vocabulary.tokenize`.

    Raises:
        DataError: there is no such split.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, name: str, split: str, *, tokens: str = "ascii") -> None:
        require_split(split)
        self.name, self.split, self.tokens = name, split, tokens

    def __len__(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.split}, {len(self)} images)"

    def pixels(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """What a source must say itself; see `Source.pixels`."""
        raise NotImplementedError

    def image(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """The same pixels as (3, size, size) float32 in [-1, 1]."""
        return to_floats(self.pixels(index, size, rng=rng))

    def captions(self, index: int) -> tuple[str, ...]:
        """What a source must say itself; see `Source.captions`."""
        raise NotImplementedError

    def key(self, index: int) -> str:
        """What a source must say itself; see `Source.key`."""
        raise NotImplementedError

    def class_id(self, index: int) -> int:
        """Every image is a class of its own."""
        return index

    def order(self, rng: torch.Generator) -> Tensor:
        """All orders are equally likely."""
        import torch

        return torch.randperm(len(self), generator=rng)

    @cached_property
    def fingerprint(self) -> str:
        """Of the name, the split, and every image's key, class and captions."""
        images = ([self.key(i), self.class_id(i), self.captions(i)] for i in range(len(self)))
        return digest(itertools.chain([self.name, self.split], images))

    @property
    def scanned(self) -> Sequence[int]:
        """All images."""
        return range(len(self))

    def verify(self, index: int) -> list[Problem]:
        """Nothing to find wrong."""
        return []

    def vocabulary_captions(self) -> Iterable[str] | None:
        """None: the words are those of all captions."""
        return None

    def scene_facts(self, index: int) -> SceneFacts | None:
        """None: nothing is known of what the images show."""
        return None

    def record(self, index: int) -> Record | None:
        """None: images are no files."""
        return None

    def content(self, index: int) -> bytes:
        """Nothing: images follow from their keys and captions."""
        return b""
