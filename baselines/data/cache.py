"""Images decoded and resized once: a file of pixels from which every later start reads.

Decoding and resizing a photograph takes many times as long as cutting a square from it. The cache
keeps what `images.scaled` gives, so the squares are the same to the bit. It is two files for every
split, size and content of the images: `*.pixels`, one image after the other, and `*.pixels.json`,
their sides and checksums. Both are written whole or not at all, the second one last, and what they
are named after includes the bytes of all images and the versions of what decodes them: other
images are never served, and a changed one makes another cache.

A checksum that does not match costs time, never a wrong pixel: the image is decoded again.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
import PIL
import torchvision
from numpy.typing import NDArray
from PIL import features
from tqdm import tqdm

from baselines import files
from baselines.config import DataConfig
from baselines.data.files import FileSource
from baselines.data.images import Pixels, scaled, shorter_side
from baselines.data.reading import read_at
from baselines.data.scan import FilteredSource
from baselines.data.source import DataError, Source, digest
from baselines.errors import UserError

_log = logging.getLogger(__name__)
# To be raised whenever the same image is decoded, cropped or resized to other pixels than before.
VERSION = 1
AUTO = "auto"
# Where `auto` puts it, below the folder of the data set.
FOLDER = ".alr-layers-cache"
LOCK = ".lock"
# Images whose sides are read to estimate what all of them take.
SAMPLE = 512
# Images that are decoded before any of them is written: what bounds the memory.
BLOCK = 64
Out = TypeVar("Out")


@dataclass
class ImageCache:
    """The decoded images of one split at one size.

    Args:
        path: the file of pixels.
        size: of the squares that are cut from them.
        rows: (N, 3) int64 height, width and CRC-32 of every image; zeros for one that could not be
            decoded, which is left to its own error.
    """

    path: Path
    size: int
    rows: NDArray[np.int64]
    starts: NDArray[np.int64] = field(init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(3 * self.rows[:, 0] * self.rows[:, 1])])

    def read(self, index: int, size: int) -> Pixels | None:
        """(H, W, 3) uint8 as `images.scaled` gives them; None where they are not here, intact.

        Read rather than mapped: the pages are shared among processes all the same, and a file that
        is cut short or a disk that fails is an error, where a mapping would end the process.
        """
        height, width, checksum = self.rows[index].tolist()
        if size != self.size or not height:
            return None
        start, end = self.starts[index : index + 2].tolist()
        content = None
        with contextlib.suppress(OSError):
            content = read_at(self.path, start, end - start)
        if content is None or zlib.crc32(content) != checksum:
            self._warn(index)
            return None
        return np.frombuffer(content, dtype=np.uint8).reshape(height, width, 3)

    def _warn(self, index: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s: damaged or gone at image %d: what is damaged is decoded again, which takes "
                "time; delete the file, and the next start fills it again",
                self.path,
                index,
            )


class Estimate(NamedTuple):
    """What the cache of a split takes in `folder`: about `needed` bytes, of the `free` ones."""

    folder: Path
    needed: int
    free: int

    def __str__(self) -> str:
        return (
            f"about {self.needed / 2**30:.3g} GiB in {self.folder}, which has "
            f"{self.free / 2**30:.3g} GiB free"
        )


def cached(source: Source, data: DataConfig, size: int, *, fill: bool = True) -> Source:
    """The same source, its images at `size` read from the cache, which is filled first if need be.

    Args:
        source: images in files, all or some of them.
        data: says where the cache is.
        size: in pixels, of the squares that are asked for.
        fill: whether to fill it; without, the source stays as it is where it is not filled.

    Raises:
        DataError: the images of the source are in no files, or there is no room.
        OSError: naming the file: the folder is not writable, the disk full, ...
    """
    if isinstance(source, FilteredSource):
        whole = cached(source.source, data, size, fill=fill)
        return FilteredSource(whole, source.indices, source.dropped)
    found = _files_of(source, data)
    folder = folder_of(data)
    key = _key(found)
    path = folder / f"{found.name}-{found.split}-{size}-{key}.pixels"
    cache = _opened(path, found, size)
    if cache is None and fill:
        with _alone(folder):
            # Another process may have filled it in the meantime.
            cache = _opened(path, found, size)
            if cache is None:
                _require_room(estimated(found, data, size), data)
                cache = _filled(path, found, size, key)
    if cache is None:
        return source
    _log.info("%s %s: %d images from %s", found.name, found.split, len(found), cache.path)
    reading = copy.copy(found)
    reading.cache = cache
    return reading


def estimated(source: Source, data: DataConfig, size: int) -> Estimate:
    """What the cache of a source takes, from the sides of some of its images, and what is free.

    Raises:
        DataError: the images of the source are in no files.
    """
    found, folder = _files_of(source, data), folder_of(data)
    count = min(SAMPLE, len(found))
    ratios = [_ratio(found, place * len(found) // count) for place in range(count)]
    mean = sum(ratios) / max(1, len(ratios))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    needed = int(3 * shorter_side(size) ** 2 * mean * len(found))
    return Estimate(folder, needed, shutil.disk_usage(there).free)


def folder_of(data: DataConfig) -> Path:
    """Where `data.cache` puts it."""
    given = Path(data.root) / FOLDER if data.cache == AUTO else Path(data.cache)
    return given.expanduser().absolute()


def _files_of(source: Source, data: DataConfig) -> FileSource:
    if isinstance(source, FilteredSource):
        return _files_of(source.source, data)
    if not isinstance(source, FileSource):
        raise DataError(
            f"data.cache={data.cache}: there is nothing to keep of {source.name}, which has no "
            "image files (cub, coco and folder have): leave data.cache out"
        )
    return source


def _ratio(source: FileSource, index: int) -> float:
    """The longer side of an image by its shorter one; 0 for a broken one, which takes nothing."""
    try:
        width, height = source.sides(index)
        return max(width, height) / min(width, height)
    except Exception:
        return 0.0


def _key(source: FileSource) -> str:
    """16 hexadecimal digits that change with the bytes of any image, and with what decodes them."""

    def content(index: int) -> str:
        try:
            return source.content(index).hex()
        except DataError:
            return ""

    versions = [VERSION, PIL.__version__, torchvision.__version__]
    codecs = [features.version(name) for name in ("jpg", "webp")]
    contents = _in_threads(content, range(len(source)), f"{source.name} {source.split}: comparing")
    return digest([*versions, *codecs, *contents])


def _in_threads(work: Callable[[int], Out], indices: Sequence[int], text: str) -> Iterator[Out]:
    """`work` of every index in order, at most `BLOCK` of them ahead."""
    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        tqdm(total=len(indices), desc=text, unit="image", disable=None) as bar,
    ):
        for start in range(0, len(indices), BLOCK):
            for result in pool.map(work, indices[start : start + BLOCK]):
                yield result
                bar.update()


def _opened(path: Path, source: FileSource, size: int) -> ImageCache | None:
    """The cache if it is filled and nothing shows that it is damaged; says so if something does."""
    index = _index_of(path)
    if not index.exists():
        return None
    try:
        content = files.read_json(index)
        rows = np.array(content["rows"], dtype=np.int64).reshape(-1, 3)
    except (UserError, KeyError, TypeError, ValueError, OverflowError):
        _log.warning("%s: damaged; the cache is filled again", index)
        return None
    decoded = rows[rows[:, 0] != 0]
    sound = len(rows) == len(source) and (decoded[:, :2].min(1) == shorter_side(size)).all()
    cache = ImageCache(path, size, rows)
    if not sound or not path.is_file() or path.stat().st_size != cache.starts[-1]:
        _log.warning("%s: damaged or gone; the cache is filled again", path)
        return None
    return cache


def _filled(path: Path, source: FileSource, size: int, key: str) -> ImageCache:
    """Decode and resize every image; the second file, written last, makes the cache valid.

    Raises:
        DataError: an image has changed since `key` was made of them.
    """

    def decoded(index: int) -> Pixels | None:
        try:
            return scaled(source.decoded(index), size)
        except Exception:
            # Decoders raise anything on damaged files; who asks for such an image learns of it.
            return None

    rows: list[tuple[int, int, int]] = []

    def write(file: IO[bytes]) -> None:
        text = f"{source.name} {source.split}: decoding into {path.parent}"
        for pixels in _in_threads(decoded, range(len(source)), text):
            if pixels is None:
                rows.append((0, 0, 0))
                continue
            file.write(pixels.data)
            rows.append((*pixels.shape[:2], zlib.crc32(pixels.data)))

    files.write_atomic(path, write)
    if _key(source) != key:
        path.unlink(missing_ok=True)
        raise DataError(f"{source.name}: images have changed while they were decoded: start again")
    files.write_json(_index_of(path), {"size": size, "rows": rows})
    return ImageCache(path, size, np.array(rows, dtype=np.int64).reshape(-1, 3))


def _index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _require_room(estimate: Estimate, data: DataConfig) -> None:
    if estimate.needed > estimate.free:
        raise DataError(
            f"data.cache={data.cache}: the decoded images take {estimate}: free some space, choose "
            "a folder on another disk, or leave data.cache out"
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time fills caches in a folder; what killed ones left there is removed.

    The lock is the operating system's and ends with the process, however it ends. Where a file
    system has none, each process fills a file of its own, and all of them are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Open for writing, without which NFS locks nothing exclusively.
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if _locked(handle, folder):
            # Nobody else writes here now, whatever machine it is on.
            for left in folder.glob(".*.pixels.*partial"):
                left.unlink()
                _log.info("%s: removed, left half-written", left)
        yield
    finally:
        os.close(handle)


def _locked(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("%s: another process is filling a cache there; waiting for it", folder)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in files.WITHOUT_LOCKS:
            raise
        return False
    return True
