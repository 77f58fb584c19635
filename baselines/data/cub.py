"""CUB-200-2011 with ten captions an image, in the layout AttnGAN reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from baselines.config import DataConfig
from baselines.data.files import (
    FileSource,
    Record,
    first_captions,
    inside,
    require_files,
    require_root,
)
from baselines.data.images import Box
from baselines.data.originals import vocabulary_from_captions_pickle
from baselines.data.reading import quoted, read_lines, read_text
from baselines.data.restricted_pickle import load_pickle
from baselines.data.source import DataError, Problem


class Cub(FileSource):
    """Birds.

    Args:
        root: holds `CUB_200_2011/` (images/, images.txt, bounding_boxes.txt), `train/` and `test/`
            (filenames.pickle, class_info.pickle: the class-disjoint split), and `text/` with the
            captions; without `text/`, the captions are read back from `captions.pickle`.
        split: "train" or "test".
        captions_per_image: how many of the captions of an image are used; 0 is all.
        tokens: how captions are split into words; by default as in the originals.

    Raises:
        DataError: files are missing (names them) or contradict each other.
    """

    @classmethod
    def open(cls, data: DataConfig, split: str) -> Cub:
        """The split of the data set that `data` describes."""
        captions = data.captions_per_image
        return cls(data.root, split, captions_per_image=captions, tokens=data.tokens)

    def __init__(
        self, root: str | Path, split: str, *, captions_per_image: int = 0, tokens: str = "ascii"
    ) -> None:
        folder = require_root("cub", root, split)
        official = folder / "CUB_200_2011"
        names, boxes = official / "images.txt", official / "bounding_boxes.txt"
        keys_file = folder / split / "filenames.pickle"
        classes_file = folder / split / "class_info.pickle"
        require_files("cub", official / "images", names, boxes)
        if not (keys_file.exists() and classes_file.exists()):
            raise DataError(
                f"cub needs {keys_file} and {classes_file}: the class-disjoint split of the "
                "AttnGAN metadata (8,855 train and 2,933 test images) cannot be guessed from the "
                "images. train_test_split.txt is another split, with the same classes in both"
            )
        keys = _string_list(keys_file, load_pickle(keys_file))
        classes = _class_list(classes_file, load_pickle(classes_file), len(keys))
        files = _images(official / "images", names, boxes)
        captions = _Captions(folder, split, len(keys))
        records = []
        for number, (key, class_id) in enumerate(zip(keys, classes, strict=True)):
            texts, problems = captions.read(number, key)
            path, box = files.get(key, (official / "images" / f"{key}.jpg", None))
            if key not in files:
                problems = (*problems, Problem("missing image", key, f"not listed in {names}"))
            elif box is None:
                problems = (*problems, Problem("bad box", key, f"no box in {boxes}"))
            texts = first_captions(texts, captions_per_image, tokens)
            records.append(Record(path, key, texts, class_id, box, problems))
        super().__init__("cub", split, records, captions.notes, tokens=tokens)


class _Captions:
    """The captions of one split: from `text/`, else from `captions.pickle`."""

    def __init__(self, folder: Path, split: str, images: int) -> None:
        self.text = folder / "text"
        self.lists: list[tuple[str, ...]] = []
        self.notes: tuple[str, ...] = ()
        if self.text.is_dir():
            return
        path = folder / "captions.pickle"
        if not path.exists():
            raise DataError(f"cub has no captions: neither {self.text} nor {path} exists")
        original = vocabulary_from_captions_pickle(path)
        ids = original.train if split == "train" else original.test
        if not images or len(ids) % images:
            raise DataError(
                f"{path} has {len(ids)} {split} captions for {images} images: "
                "not the same number for every image, so they cannot be told apart"
            )
        texts = [" ".join(original.vocabulary.decode(caption)) for caption in ids]
        step = len(ids) // images
        self.lists = [tuple(texts[start : start + step]) for start in range(0, len(ids), step)]
        self.notes = (f"captions were read back from {path}, because {self.text} does not exist",)

    def read(self, number: int, key: str) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
        """The captions of an image and what is wrong with their file."""
        if self.lists:
            return self.lists[number], ()
        path = inside(self.text, f"{key}.txt", "filenames.pickle")
        if not path.exists():
            return (), (Problem("missing captions", key, f"{path} does not exist"),)
        try:
            text = read_text(path).rstrip()
        except DataError as error:
            return (), (Problem("unreadable captions", key, str(error)),)
        return (tuple(text.split("\n")) if text else ()), ()


def _string_list(path: Path, content: Any) -> list[str]:
    keys = [k.decode("latin1") if isinstance(k, bytes) else k for k in _sequence(path, content)]
    for number, key in enumerate(keys):
        if not isinstance(key, str):
            raise DataError(f"{path}: entry {number} is {quoted(key)}, expected a name")
        inside(path.parent, key, f"{path}, entry {number}")
    return [str(key) for key in keys]


def _class_list(path: Path, content: Any, expected: int) -> list[int]:
    classes = _sequence(path, content)
    if len(classes) != expected:
        raise DataError(
            f"{path} has {len(classes)} entries, filenames.pickle beside it {expected}: "
            "they are not of the same release"
        )
    for number, value in enumerate(classes):
        if not isinstance(value, (int, np.integer)) or not 0 <= value < 2**31:
            raise DataError(
                f"{path} holds something else than class numbers: entry {number} is {quoted(value)}"
            )
    return [int(value) for value in classes]


def _sequence(path: Path, content: Any) -> list[Any]:
    if not isinstance(content, (list, tuple, np.ndarray)) or (
        isinstance(content, np.ndarray) and content.ndim != 1
    ):
        raise DataError(f"{path}: expected a list, found {type(content).__name__}")
    return list(content)


def _images(folder: Path, names: Path, boxes: Path) -> dict[str, tuple[Path, Box | None]]:
    """Key (name without extension) → file and box, joined by the id of the image."""
    box_of: dict[str, Box] = {}
    for where, (number, *values) in _rows(boxes, 5):
        try:
            x, y, width, height = map(float, values)
        except ValueError as error:
            raise DataError(
                f"{where}: {error}; expected '<id> <x> <y> <width> <height>'"
            ) from error
        box_of[number] = (x, y, width, height)
    files = {}
    for where, (number, name) in _rows(names, 2):
        key = name.rsplit(".", 1)[0]
        files[key] = (inside(folder, name, where), box_of.get(number))
    return files


def _rows(path: Path, columns: int) -> list[tuple[str, list[str]]]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        row = line.split(maxsplit=columns - 1)
        if row and len(row) != columns:
            raise DataError(f"{path}, line {number}: {line!r} has not {columns} columns")
        if row:
            rows.append((f"{path}, line {number}", row))
    return rows
