"""Sources whose images lie in files: what `cub`, `coco` and `folder` share."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from baselines.data.images import (
    Box,
    box_crop,
    crop_bounds,
    decoded_size,
    open_rgb,
    opened,
    scaled,
    square,
)
from baselines.data.reading import quoted
from baselines.data.source import BaseSource, DataError, Problem, digest, require_split
from baselines.data.vocabulary import tokenize

if TYPE_CHECKING:
    from baselines.data.cache import ImageCache

# The longest path that Linux opens.
MAX_NAME = 4096


class Record(NamedTuple):
    """One image file with what is known of it; `problems` were met while reading the lists."""

    path: Path
    key: str
    captions: tuple[str, ...]
    class_id: int
    box: Box | None = None
    problems: tuple[Problem, ...] = ()


class FileSource(BaseSource):
    """A `Source` over image files.

    Args:
        name: of the data set.
        split: "train" or "test".
        records: one per image.
        notes: what the user should know of how the data were read.
        tokens: how captions are split into words.

    Attributes:
        cache: where decoded images are read from, see `cache.cached`; None to decode them.
    """

    cache: ImageCache | None = None

    def __init__(
        self,
        name: str,
        split: str,
        records: Sequence[Record],
        notes: Sequence[str] = (),
        *,
        tokens: str = "ascii",
    ) -> None:
        super().__init__(name, split, tokens=tokens)
        self.records = tuple(records)
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.records)

    def pixels(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """(3, size, size) uint8; cropped around the box where there is one.

        Raises:
            DataError: the file cannot be decoded.
        """
        kept = None if self.cache is None else self.cache.read(index, size)
        return square(scaled(self.decoded(index), size) if kept is None else kept, size, rng)

    def decoded(self, index: int) -> Image.Image:
        """The image, cropped around its box where it has one.

        Raises:
            DataError: the file cannot be decoded.
        """
        record = self.records[index]
        try:
            image = open_rgb(record.path)
        except Exception as error:
            raise DataError(
                f"image {record.path} cannot be read ({error}): mend it, or leave it out with "
                "--skip-broken (data.skip_broken=true)"
            ) from error
        return image if record.box is None else box_crop(image, record.box)

    def sides(self, index: int) -> tuple[int, int]:
        """Width and height of what `decoded` gives, from the head of the file alone.

        Raises:
            DataError: it cannot be read.
        """
        record = self.records[index]
        try:
            with opened(record.path) as image:
                width, height = image.size
        except Exception as error:
            raise DataError(f"image {record.path} cannot be read ({error})") from error
        if record.box is None:
            return width, height
        left, top, right, bottom = crop_bounds(width, height, record.box)
        return right - left, bottom - top

    def captions(self, index: int) -> tuple[str, ...]:
        """The raw captions of an image."""
        return self.records[index].captions

    def class_id(self, index: int) -> int:
        """The class of an image."""
        return self.records[index].class_id

    def key(self, index: int) -> str:
        """The name of an image, unique in the data set."""
        return self.records[index].key

    def record(self, index: int) -> Record:
        """The file of an image, and its box where it has one."""
        return self.records[index]

    def content(self, index: int) -> bytes:
        """The crop, and a hash of the whole file.

        Raises:
            DataError: the file cannot be read.
        """
        record = self.records[index]
        try:
            read = record.path.read_bytes()
        except OSError as error:
            raise DataError(f"image {record.path} cannot be read ({error.strerror})") from error
        return repr(record.box).encode() + hashlib.sha256(read).digest()

    @cached_property
    def fingerprint(self) -> str:
        """Of every image's key, class, box, captions and size in bytes."""
        records = (
            [record.key, record.class_id, record.box, record.captions, _bytes_of(record.path)]
            for record in self.records
        )
        return digest(itertools.chain([self.name, self.split], records))

    def verify(self, index: int) -> list[Problem]:
        """Everything wrong with an image, its file and its box; captions are the scan's part."""
        record = self.records[index]
        problems = list(record.problems)
        try:
            width, height = decoded_size(record.path)
        except FileNotFoundError:
            return [*problems, Problem("missing image", record.key, str(record.path))]
        except Exception as error:
            # Decoders raise anything on damaged files, and each such file belongs in the report.
            detail = f"{record.path}: {error}"
            return [*problems, Problem("broken image", record.key, detail)]
        if record.box is not None:
            fault = box_fault(record.box, width, height)
            if fault:
                problems.append(Problem("bad box", record.key, fault))
        return problems


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def box_fault(box: Box, width: int, height: int) -> str:
    """Say what is wrong with a box (x, y, width, height) in an image, or "".

    Annotators' boxes reach over the edge a little, and the crop is clipped there; a box that lies
    outside with more than half of its area belongs to another image or another scale.

    >>> box_fault((-2.0, 0.0, 20.0, 20.0), 40, 30)
    ''
    >>> box_fault((35.0, 0.0, 20.0, 20.0), 40, 30)
    'box (35, 0, 20, 20) in an image of 40×30: 75% of it lies outside'
    """
    x, y, box_width, box_height = box
    where = f"box {_numbers(box)} in an image of {width}×{height}"
    if not all(map(math.isfinite, box)):
        return f"{where}: not finite"
    if box_width <= 0 or box_height <= 0:
        return f"{where}: width and height must be positive"
    inside = max(0.0, min(x + box_width, width) - max(x, 0)) * max(
        0.0, min(y + box_height, height) - max(y, 0)
    )
    share = inside / (box_width * box_height)
    return "" if share >= 0.5 else f"{where}: {1 - share:.0%} of it lies outside"


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def first_captions(captions: Sequence[str], limit: int, tokens: str) -> tuple[str, ...]:
    """Keep the captions up to the `limit`-th that has a word (all of them for 0).

    Captions without a word on the way stay, so that the scan names them, but do not count.

    >>> first_captions(["a bird", "?!", "red", "blue"], 2, "ascii")
    ('a bird', '?!', 'red')
    """
    if limit <= 0 or len(captions) <= limit:
        return tuple(captions)
    usable = 0
    for number, caption in enumerate(captions):
        usable += bool(tokenize(caption, tokens))
        if usable == limit:
            return tuple(captions[: number + 1])
    return tuple(captions)


def hashes_to_test(name: str) -> bool:
    """Whether an image is in the test split where nothing says so: some tenth of all names are.

    Images that are added later never move the others.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 10 == 0


def require_root(name: str, root: str | Path, split: str) -> Path:
    """The folder of a data set.

    Raises:
        DataError: no such folder or no such split.
    """
    require_split(split)
    if not str(root):
        raise DataError(f"data.root is empty: {name} needs the folder of the data set there")
    path = Path(root)
    if not path.is_dir():
        raise DataError(f"data.root={root} is not a folder (looked for {os.path.abspath(path)})")
    return path


def require_files(name: str, *paths: Path) -> None:
    """Raise a DataError naming every one of `paths` that does not exist."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"{name} lacks {len(missing)} of its files: " + ", ".join(missing))


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`.

    Raises:
        DataError: `name` is empty, no name of a file, absolute, or climbs out of `folder`.
    """
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(name)
        strange = not name.strip() or len(name) > MAX_NAME or "\0" in name
        if strange or path.is_absolute() or path.drive or ".." in path.parts:
            raise DataError(
                f"{where}: file name {quoted(name)} does not lie inside {folder}: "
                "give names relative to that folder, without '..'"
            )
    return folder / name
