"""WebDataset shards as img2dataset writes them: `00000.tar` with `<key>.jpg` and `<key>.txt`.

Shards are usually streamed, which fixes neither how many images an epoch has nor where a run that
stopped would go on. Here an index makes every sample readable by number, so that they are shuffled,
shared among ranks and worker processes, and resumed at a sample exactly like any other data set;
and reading in the order of the shards is kept by shuffling within a buffer (`order`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.config import DataConfig
from baselines.data.files import hashes_to_test, require_root
from baselines.data.images import decoded_size, open_rgb, to_square
from baselines.data.reading import parse_json, quoted, read_at, read_lines
from baselines.data.source import SPLITS, BaseSource, DataError, Problem, digest
from baselines.data.tar_index import Numbers, index_shards

BUFFER = 10_000
# Decoding millions of images before the first step would take hours.
SCANNED = 4096
MAX_IMAGE_BYTES = 2**27
MAX_TEXT_BYTES = 2**20


class WebDataset(BaseSource):
    """Captioned images in tar shards on a file system; every image is its own class.

    The caption is the sample's `.txt`, or "caption" of its `.json` (a string or a list of them).

    Args:
        root: either has the sub-folders `train/` and `test/` with shards (`*.tar`), or is one
            folder with shards.
        split: "train" or "test".
        split_file: for one folder, a text file with the names of the shards of the test split, one
            a line. Without it, every sample whose key hashes to a tenth is in the test split.
        buffer: how many images that follow each other are shuffled together, see `order`.
        tokens: how captions are split into words; nothing of them is lost by default.

    Raises:
        DataError: names the shard or the line and the remedy.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        split_file: str | Path = "",
        buffer: int = BUFFER,
        tokens: str = "unicode",
    ) -> None:
        super().__init__("webdataset", split, tokens=tokens)
        base, rule = require_root("webdataset", root, split), ""
        parted = any((base / name).is_dir() for name in SPLITS)
        self.folder, self.buffer = base / split if parted else base, buffer
        self.shards = sorted(self.folder.glob("*.tar"))
        if not self.shards:
            raise DataError(f"{self.folder} has no shards (*.tar)")
        if parted and split_file:
            raise DataError(
                f"data.split_file={split_file} contradicts the folders train/ and test/ of {base}: "
                "leave one of the two out"
            )
        self.index = index_shards(self.folder, self.shards)
        chosen = np.ones(len(self.index), dtype=bool)
        if not parted:
            test, rule = self._test_samples(split_file)
            chosen = test if split == "test" else ~test
        self.chosen: Numbers = np.flatnonzero(chosen)
        if not len(self.chosen):
            raise DataError(f"{self.folder} has no image for the {split} split{rule}")
        self.notes = (f"{len(self.chosen)} of {len(chosen)} images of {len(self.shards)} shards"
                      f"{rule}",)  # fmt: skip
        if len(self.scanned) < len(self):
            self.notes += (f"{len(self.scanned)} of them, evenly spread, checked",)

    @classmethod
    def open(cls, data: DataConfig, split: str) -> WebDataset:
        """The split of the shards that `data` describes."""
        return cls(
            data.root,
            split,
            split_file=data.split_file,
            buffer=data.shuffle_buffer,
            tokens=data.tokens,
        )

    def _test_samples(self, split_file: str | Path) -> tuple[np.ndarray, str]:
        """(N,) whether a sample is in the test split, and the rule in words."""
        if not split_file:
            keys = (self._key(sample) for sample in range(len(self.index)))
            test = np.fromiter(map(hashes_to_test, keys), dtype=bool, count=len(self.index))
            return test, ", by a hash of their keys, about 9 to 1"
        path = Path(split_file)
        path = path if path.exists() else self.folder / path
        names = {line.strip() for line in read_lines(path)} - {""}
        strangers = sorted(names - {shard.name for shard in self.shards})
        if strangers:
            raise DataError(f"{path} lists shards that {self.folder} has not: {quoted(strangers)}")
        in_test = np.array([shard.name in names for shard in self.shards])
        return in_test[self.index.shard], f", test shards by {split_file}"

    def __len__(self) -> int:
        return len(self.chosen)

    def pixels(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """(3, size, size) uint8.

        Raises:
            DataError: the image cannot be decoded.
        """
        try:
            image = open_rgb(self._image(index))
        except Exception as error:
            raise DataError(
                f"image {self.key(index)} of {self.folder} cannot be read ({error}): leave it out "
                "with --skip-broken (data.skip_broken=true)"
            ) from error
        return to_square(image, size, rng)

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of an image; none where they cannot be read."""
        sample = self.chosen[index]
        offset, size = self.index.text[sample].tolist()
        if not 0 <= size <= MAX_TEXT_BYTES:
            return ()
        try:
            text = read_at(self._shard(index), offset, size).decode("utf-8")
            content = parse_json(text) if self.index.is_json[sample] else text
        except (OSError, UnicodeDecodeError, DataError):
            return ()
        if isinstance(content, dict):
            content = content.get("caption")
        captions = content if isinstance(content, list) else [content]
        return tuple(text.strip() for text in captions if isinstance(text, str))

    def key(self, index: int) -> str:
        """Shard and key of a sample."""
        return self._key(self.chosen[index])

    def order(self, rng: torch.Generator) -> Tensor:
        """The shards in random order, their images shuffled within a buffer.

        Of every `buffer` images that follow each other all orders are equally likely. With a buffer
        as large as the data set, or 0, all orders of all images are.
        """
        if not 0 < self.buffer < len(self):
            return torch.randperm(len(self), generator=rng)
        shard = torch.from_numpy(self.index.shard[self.chosen])
        place = torch.randperm(len(self.shards), generator=rng)[shard]
        in_shards = torch.sort(place, stable=True).indices
        parts = (in_shards[at : at + self.buffer] for at in range(0, len(self), self.buffer))
        return torch.cat([part[torch.randperm(len(part), generator=rng)] for part in parts])

    @cached_property
    def fingerprint(self) -> str:
        """Of every shard's name and size in bytes, and of which of its images are in the split."""
        shards = [[path.name, path.stat().st_size] for path in self.shards]
        chosen = hashlib.blake2b(self.chosen.astype("<i8").tobytes(), digest_size=8).hexdigest()
        return digest([self.name, self.split, shards, chosen])

    def content(self, index: int) -> bytes:
        """A hash of the image's bytes.

        Raises:
            DataError: they cannot be read.
        """
        try:
            return hashlib.sha256(self._image(index).getvalue()).digest()
        except OSError as error:
            raise DataError(f"image {self.key(index)} cannot be read ({error})") from error

    @property
    def scanned(self) -> Sequence[int]:
        """All images, or some thousands evenly spread."""
        count = min(SCANNED, len(self))
        return range(len(self)) if count == len(self) else [
            place * len(self) // count for place in range(count)
        ]  # fmt: skip

    def verify(self, index: int) -> list[Problem]:
        """Decode the image to its last byte."""
        try:
            decoded_size(self._image(index))
        except Exception as error:
            return [Problem("broken image", self.key(index), str(error))]
        return []

    def _key(self, sample: int) -> str:
        name = self.index.key[sample].decode("utf-8", "replace")
        return f"{self.shards[self.index.shard[sample]].stem}/{name}"

    def _shard(self, index: int) -> Path:
        return self.shards[int(self.index.shard[self.chosen[index]])]

    def _image(self, index: int) -> io.BytesIO:
        offset, size = self.index.image[self.chosen[index]].tolist()
        if size > MAX_IMAGE_BYTES:
            raise OSError(f"it has {size:,} bytes, more than the {MAX_IMAGE_BYTES:,} that are read")
        return io.BytesIO(read_at(self._shard(index), offset, size))
