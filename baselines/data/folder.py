"""Any folder of images with a `metadata.jsonl` beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from baselines.config import DataConfig
from baselines.data.files import (
    FileSource,
    Record,
    first_captions,
    hashes_to_test,
    inside,
    require_root,
)
from baselines.data.images import Box
from baselines.data.reading import parse_json, quoted, read_lines
from baselines.data.source import SPLITS, DataError, Problem

METADATA = "metadata.jsonl"
_FORM = '{"file_name": "a.png", "text": "a caption" or ["several", "captions"]}'


class Folder(FileSource):
    """Your own images and captions.

    Every line of `metadata.jsonl` is an object with "file_name" (relative to the file), "text" (a
    string or a list of strings) and optionally "class" (a name or number) and "bbox"
    ([x, y, width, height] in pixels; the image is then cropped around it). Without a class an
    image is a class of its own.

    Args:
        root: either has the sub-folders `train/` and `test/`, each with a `metadata.jsonl`, or is
            one folder with one `metadata.jsonl`.
        split: "train" or "test".
        split_file: for one folder, a text file with the file names of the test split, one a line
            (relative paths are also looked for in `root`). Without it, every image whose name
            hashes to a tenth is in the test split: images added later never move the others.
        captions_per_image: how many of the captions of an image are used; 0 is all.
        tokens: how captions are split into words; nothing of them is lost by default.

    Raises:
        DataError: names the file, the lines and the remedy.
    """

    @classmethod
    def open(cls, data: DataConfig, split: str) -> Folder:
        """The split of the data set that `data` describes."""
        return cls(
            data.root,
            split,
            split_file=data.split_file,
            captions_per_image=data.captions_per_image,
            tokens=data.tokens,
        )

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        split_file: str | Path = "",
        captions_per_image: int = 0,
        tokens: str = "unicode",
    ) -> None:
        base = require_root("folder", root, split)
        notes: tuple[str, ...] = ()
        parts = {name: base / name / METADATA for name in SPLITS}
        if any(path.exists() for path in parts.values()):
            folder, rows = base / split, _subfolder(parts, split, split_file)
        elif (base / METADATA).exists():
            folder, rows = base, _read(base / METADATA)
            rows, notes = _select(base, rows, split, split_file)
        else:
            raise DataError(
                f"{base} has no {METADATA}, nor have {parts['train'].parent} and "
                f"{parts['test'].parent}: write one with a line like {_FORM} for every image"
            )
        classes = {
            name: number for number, name in enumerate(sorted({r.label for r in rows} - {""}))
        }
        records = [
            Record(
                folder / row.name,
                row.name,
                first_captions(row.captions, captions_per_image, tokens),
                classes[row.label] if row.label else len(classes) + number,
                row.box,
                () if row.captions else (Problem("missing captions", row.name, row.where),),
            )
            for number, row in enumerate(rows)
        ]
        super().__init__("folder", split, records, notes, tokens=tokens)


class _Row(NamedTuple):
    """A line of the metadata; `label` is "" without a class."""

    where: str
    name: str
    captions: tuple[str, ...]
    label: str
    box: Box | None


def _subfolder(parts: dict[str, Path], split: str, split_file: str | Path) -> list[_Row]:
    missing = [str(path) for path in parts.values() if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]} does not exist: with sub-folders both splits need one")
    if split_file:
        raise DataError(
            f"data.split_file={split_file} contradicts the folders train/ and test/ of "
            f"{parts[split].parent.parent}: leave one of the two out"
        )
    return _read(parts[split])


def _select(
    base: Path, rows: Sequence[_Row], split: str, split_file: str | Path
) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows of a split and a note on how they were chosen."""
    if split_file:
        test = _listed(base, Path(split_file), {row.name for row in rows})
        rule, remedy = f"by {split_file}", "change that file"
    else:
        test = {row.name for row in rows if hashes_to_test(row.name)}
        rule = "by a hash of the file names, about 9 to 1"
        remedy = "choose the test images with data.split_file (--split-file)"
    counts = {"train": sum(row.name not in test for row in rows)}
    counts["test"] = len(rows) - counts["train"]
    for name, count in counts.items():
        if not count:
            raise DataError(f"{base}: no image is left for the {name} split, {rule}: {remedy}")
    chosen = [row for row in rows if (row.name in test) == (split == "test")]
    return chosen, (f"split {rule}: {counts['train']} train, {counts['test']} test images",)


def _listed(base: Path, split_file: Path, names: set[str]) -> set[str]:
    path = split_file if split_file.exists() else base / split_file
    if not path.exists():
        nor = "" if path == split_file else f", nor does {path}"
        raise DataError(f"data.split_file={split_file} does not exist{nor}")
    lines = {n: line.strip() for n, line in enumerate(read_lines(path), start=1) if line.strip()}
    strangers = [f"line {n}: {name}" for n, name in lines.items() if name not in names]
    if strangers:
        raise DataError(
            f"{path} lists {len(strangers)} names that {base / METADATA} has not: "
            + "; ".join(strangers[:10])
        )
    return set(lines.values())


def _read(path: Path) -> list[_Row]:
    """All rows; raises one DataError that lists every malformed line."""
    rows, faults = [], []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            rows.append(_row(where, path.parent, parse_json(line)))
        except DataError as error:
            faults.append(f"  line {number}: {error}")
    if faults:
        more = [f"  … and {len(faults) - 20} more"] if len(faults) > 20 else []
        raise DataError(
            f"{path} has {len(faults)} lines that cannot be used; expected {_FORM}\n"
            + "\n".join(faults[:20] + more)
        )
    if not rows:
        raise DataError(f"{path} is empty: expected a line like {_FORM} for every image")
    return rows


def _row(where: str, folder: Path, content: Any) -> _Row:
    if not isinstance(content, dict):
        raise DataError(f"{type(content).__name__} instead of an object")
    name, text = content.get("file_name"), content.get("text")
    if not isinstance(name, str):
        raise DataError(f'"file_name" is {quoted(name)}, expected a string')
    inside(folder, name, '"file_name"')
    captions = [text] if isinstance(text, str) else text
    if captions is None:
        captions = []
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise DataError(
            f'"text" of {name} is {quoted(text)}, expected a string or a list of strings'
        )
    label = content.get("class", "")
    if not isinstance(label, (str, int)):
        raise DataError(f'"class" of {name} is {quoted(label)}, expected a name or a number')
    return _Row(where, name, tuple(captions), str(label), _box(name, content.get("bbox")))


def _box(name: str, value: Any) -> Box | None:
    if value is None:
        return None
    numbers = isinstance(value, list) and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) for number in value
    )
    if not numbers or len(value) != 4:
        raise DataError(f'"bbox" of {name} is {quoted(value)}, expected [x, y, width, height]')
    try:
        x, y, width, height = map(float, value)
    except OverflowError as error:
        raise DataError(f'"bbox" of {name} is {quoted(value)}: too large') from error
    return x, y, width, height
