"""Where every sample lies in a set of tar shards, so that any of them can be read by number.

Reading the headers of a million samples takes minutes, so the index is kept beside the shards and
made anew when one of them changes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from baselines.data.reading import require_regular
from baselines.data.source import DataError
from baselines.files import write_bytes

KEPT = ".alr-layers-index.npz"
IMAGES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("txt", "json")

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class TarIndex:
    """N samples of consecutive shards, in the order in which they lie there.

    shard: (N,) number of the shard; key: (N,) UTF-8 bytes, without the extension; image, text:
    (N, 2) offset and size in bytes of the image and of what holds its caption; is_json: (N,)
    whether that is JSON rather than plain text. A sample without a caption has text size -1.
    """

    shard: Numbers
    key: NDArray[np.bytes_]
    image: Numbers
    text: Numbers
    is_json: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.shard)


def index_shards(folder: Path, shards: Sequence[Path]) -> TarIndex:
    """Find every sample with an image in `shards`, from the kept index where it is up to date.

    Raises:
        DataError: a shard cannot be read, is cut short or compressed; names it.
    """
    state = json.dumps([[path.name, *_state(path)] for path in shards])
    kept = _load(folder / KEPT, state)
    if kept is not None:
        return kept
    bar = tqdm(shards, desc="indexing shards", unit="shard", disable=None)
    rows = [row for number, path in enumerate(bar) for row in _samples(number, path)]
    index = TarIndex(
        shard=np.array([row[0] for row in rows], dtype=np.int64),
        key=np.array([row[1] for row in rows], dtype=np.bytes_),
        image=np.array([row[2] for row in rows], dtype=np.int64).reshape(-1, 2),
        text=np.array([row[3] for row in rows], dtype=np.int64).reshape(-1, 2),
        is_json=np.array([row[4] for row in rows], dtype=np.bool_),
    )
    # Without the right to write there the next start reads the headers again.
    with contextlib.suppress(OSError):
        _save(index, folder / KEPT, state)
    return index


Row = tuple[int, bytes, tuple[int, int], tuple[int, int], bool]


def _samples(number: int, path: Path) -> Iterator[Row]:
    """The samples of a shard: consecutive members that share their name up to the first dot."""
    size = path.stat().st_size
    key, parts = "", dict[str, tuple[int, int]]()
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it ends in the middle of a member")
                # A tar file keeps every header it has read, which nobody asks for again.
                shard.members = []  # type: ignore[attr-defined]  # documented by its users only
                if not member.isreg():
                    continue
                folder, name = os.path.split(member.name)
                stem, _, extension = name.partition(".")
                if os.path.join(folder, stem) != key:
                    yield from _row(number, key, parts)
                    key, parts = os.path.join(folder, stem), {}
                parts[extension.lower()] = (member.offset_data, member.size)
            yield from _row(number, key, parts)
    except (tarfile.TarError, OSError, UnicodeError) as error:
        raise DataError(
            f"shard {path} cannot be read ({error}): download it again; compressed shards must be "
            "unpacked to .tar first"
        ) from error


def _row(number: int, key: str, parts: dict[str, tuple[int, int]]) -> Iterator[Row]:
    image = next((parts[kind] for kind in IMAGES if kind in parts), None)
    if image is not None:
        kind = next((kind for kind in TEXTS if kind in parts), "")
        text = parts.get(kind, (0, -1))
        yield number, key.encode("utf-8", "surrogateescape"), image, text, kind == "json"


def _state(path: Path) -> tuple[int, int]:
    try:
        require_regular(path)
        state = path.stat()
    except OSError as error:
        raise DataError(f"shard {path} cannot be read: {error.strerror or error}") from error
    return state.st_size, state.st_mtime_ns


def _save(index: TarIndex, path: Path, state: str) -> None:
    arrays = {part.name: getattr(index, part.name) for part in fields(index)}
    buffer = io.BytesIO()
    np.savez(buffer, state=np.array(state), **arrays)
    write_bytes(path, buffer.getvalue())


def _load(path: Path, state: str) -> TarIndex | None:
    """The kept index; None if there is none, or none of these shards as they are."""
    try:
        require_regular(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["state"]) != state:
                return None
            index = TarIndex(**{part.name: kept[part.name] for part in fields(TarIndex)})
    except Exception:
        # A damaged index fails in any way, and is made anew.
        return None
    shards, length = json.loads(state), len(index)
    sizes = np.array([size for _, size, _ in shards] or [0])
    shapes = [index.key.shape, index.is_json.shape, index.image.shape[:1], index.text.shape[:1]]
    sound = all(shape == (length,) for shape in shapes) and length and (
        np.min(index.shard) >= 0 and np.max(index.shard) < len(shards)
        and (index.image >= 0).all()
        and (index.image.sum(1) <= sizes[index.shard]).all()
        and (index.text.sum(1) <= sizes[index.shard]).all()
    )  # fmt: skip
    return index if sound else None
