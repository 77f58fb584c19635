"""MS-COCO 2014 captions in the layout in which it is distributed."""

from __future__ import annotations

from pathlib import Path

from baselines.config import DataConfig
from baselines.data.files import (
    FileSource,
    Record,
    first_captions,
    inside,
    require_files,
    require_root,
)
from baselines.data.reading import parse_json, quoted, read_text
from baselines.data.source import DataError, Problem

_FOLDERS = {"train": "train2014", "test": "val2014"}


class Coco(FileSource):
    """Everyday scenes; every image is its own class.

    Args:
        root: holds `train2014/`, `val2014/` and `annotations/captions_{train,val}2014.json`. The
            images listed there are used, whatever else lies in the folders.
        split: "train", or "test" for val2014.
        captions_per_image: how many of the captions of an image are used; 0 is all.
        tokens: how captions are split into words; by default as in the originals.

    Raises:
        DataError: files are missing (names them) or not of the expected form.
    """

    @classmethod
    def open(cls, data: DataConfig, split: str) -> Coco:
        """The split of the data set that `data` describes."""
        captions = data.captions_per_image
        return cls(data.root, split, captions_per_image=captions, tokens=data.tokens)

    def __init__(
        self, root: str | Path, split: str, *, captions_per_image: int = 0, tokens: str = "ascii"
    ) -> None:
        folder = require_root("coco", root, split)
        images = folder / _FOLDERS[split]
        annotations = folder / "annotations" / f"captions_{_FOLDERS[split]}.json"
        require_files("coco", images, annotations)
        rows, texts = _read(annotations)
        records = []
        for number, (image_id, name) in enumerate(rows):
            path = inside(images, name, f"{annotations}, image {image_id}")
            key = name.rsplit(".", 1)[0]
            captions = first_captions(texts.pop(image_id, []), captions_per_image, tokens)
            problems: tuple[Problem, ...] = ()
            if not captions:
                detail = f"image {image_id} has no annotation in {annotations}"
                problems = (Problem("missing captions", key, detail),)
            records.append(Record(path, key, captions, number, problems=problems))
        notes: tuple[str, ...] = ()
        if texts:
            count = sum(map(len, texts.values()))
            notes = (
                f"{count} captions of {len(texts)} images not listed in {annotations} left out",
            )
        super().__init__("coco", split, records, notes, tokens=tokens)


def _read(path: Path) -> tuple[list[tuple[int, str]], dict[int, list[str]]]:
    """(image id, file name) of every image, and the captions of every image id."""
    text = read_text(path)
    try:
        content = parse_json(text)
    except DataError as error:
        raise DataError(f"{path}: {error}: download it again") from error
    try:
        rows = [(_id(row["id"]), _text(row, "file_name", "image")) for row in content["images"]]
        texts: dict[int, list[str]] = {}
        for row in content["annotations"]:
            texts.setdefault(_id(row["image_id"]), []).append(_text(row, "caption", "annotation"))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no COCO caption file ({type(error).__name__}: "
            f"{quoted(str(error))[1:-1]}): expected "
            '"images" with "id" and "file_name", and "annotations" with "image_id" and "caption"'
        ) from error
    return rows, texts


def _id(value: object) -> int:
    # Larger ones than any data set has could be chosen to hash alike.
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise TypeError(f"the id {quoted(value)} is no number below 2^32")
    return value


def _text(row: dict[str, object], name: str, kind: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise TypeError(f"the {name} of {kind} {quoted(row.get('id'))} is no string")
    return value
