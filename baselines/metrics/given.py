"""Anybody's images: a folder with captions, measured without a run directory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from baselines.data.files import FileSource, Record, inside
from baselines.data.reading import parse_json, read_lines
from baselines.data.source import DataError, Source
from baselines.errors import UserError
from baselines.metrics.detectors import Detector
from baselines.metrics.evaluation import (
    REAL,
    Options,
    choose,
    describe,
    environment,
    wanted_extractors,
)
from baselines.metrics.extractors import open_extractor
from baselines.metrics.features import FeatureSet
from baselines.metrics.image_text import ImageTextEncoder
from baselines.metrics.images import ImageBatch, read_image, real_batches
from baselines.metrics.judging import bring, independent_judge
from baselines.metrics.measuring import Sets, measure
from baselines.metrics.pairs import fingerprint, read_pairs
from baselines.metrics.spec import EvaluationContext, ImageSet

IMAGES = "images"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_WORDS = 18
_FORM = '{"file_name": "a.png", "text": "a caption"}'


Row = tuple[str, tuple[str, ...], str]  # file name, captions, class


class GivenImages(FileSource):
    """Images as they are, each with a caption; nothing is cropped but what is not square."""

    def image(self, index: int, size: int, **unused: Any) -> Tensor:
        """(3, size, size) in [-1, 1]: untouched where it has this size.

        Else the shorter side is resized to `size` (antialiased bicubic) and the centre cut out.
        """
        image = read_image(self.records[index].path)
        height, width = image.shape[1:]
        if (height, width) == (size, size):
            return image
        scale = size / min(height, width)
        resized = torch.nn.functional.interpolate(
            image[None], (max(size, round(height * scale)), max(size, round(width * scale))),
            mode="bicubic", align_corners=False, antialias=True,
        )[0]  # fmt: skip
        top, left = (resized.shape[1] - size) // 2, (resized.shape[2] - size) // 2
        return resized[:, top : top + size, left : left + size].clamp(-1, 1)


def open_images(folder: Path, captions: Path | None = None) -> GivenImages:
    """Open a folder of images, with a caption for each where they are given.

    Args:
        folder: its images, in the order of their names, sub-folders included.
        captions: .jsonl with "file_name" and "text" on every line (and "class", where images of a
            class are no negatives of each other), or a text file with a caption a line, in the
            order of the names.

    Raises:
        DataError: no images, or captions that do not match them.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: no images ({', '.join(SUFFIXES)})")
    names = [path.relative_to(folder).as_posix() for path in paths]
    if captions is None:
        rows: list[Row] = [(name, ("",), str(number)) for number, name in enumerate(names)]
    elif captions.suffix == ".jsonl":
        rows = list(_read_jsonl(folder, captions))
    else:
        texts = [line for line in read_lines(captions) if line.strip()]
        if len(texts) != len(names):
            raise DataError(
                f"{captions} has {len(texts)} captions for {len(names)} images of {folder}; give "
                f"one a line in the order of the names, or .jsonl with lines like {_FORM}"
            )
        rows = [(name, (text,), text) for name, text in zip(names, texts, strict=True)]
    # Images of one caption are never each other's negative.
    classes = {label: number for number, label in enumerate(dict.fromkeys(r[2] for r in rows))}
    records = [Record(folder / name, name, texts, classes[label]) for name, texts, label in rows]
    missing = [record.key for record in records if not record.path.is_file()]
    if missing:
        raise DataError(
            f"{captions} names {len(missing)} files that {folder} has not: {missing[0]}"
        )
    return GivenImages(IMAGES, "test", records)


def _read_jsonl(folder: Path, path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
            name, text = row["file_name"], row["text"]
            texts = (text,) if isinstance(text, str) else tuple(map(str, text))
            label = str(row.get("class", texts[0]))
        except (DataError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{where}: {type(error).__name__} {error}; expected {_FORM}") from error
        inside(folder, name, where)
        yield name, texts, label


def common_size(source: GivenImages) -> int:
    """Give the side that all images share.

    Raises:
        UserError: they differ or are not square; names the first that does.
    """
    found: dict[tuple[int, int], Path] = {}
    for record in source.records:
        try:
            with Image.open(record.path) as image:
                found.setdefault(image.size, record.path)
        except Exception as error:
            raise DataError(f"image {record.path} cannot be read ({error})") from error
    if len(found) > 1 or len(set(next(iter(found)))) > 1:
        shown = ", ".join(f"{path}: {w}×{h}" for (w, h), path in list(found.items())[:2])
        raise UserError(f"images of different sizes or not square ({shown}); choose with --size")
    return next(iter(found))[0]


def evaluate_images(
    folder: Path,
    captions: Path | None,
    options: Options,
    *,
    reference: Path | None = None,
    size: int | None = None,
    detector: Detector | None = None,
    encoder: ImageTextEncoder | None = None,
    device: torch.device,
) -> dict[str, Any]:
    """Measure a folder of images.

    Args:
        folder: the images; see `open_images`.
        captions: what they were drawn from; None leaves out what needs captions.
        options: as of a run; `images` are the first so many of the folder.
        reference: real images to compare with, as a folder or as the .npz of an earlier reference.
        size: side to bring all images to; None: the one that they share.
        detector: for SOA and counting.
        encoder: of images and texts, for positional alignment and R-precision by it.
        device: where to measure.

    Returns:
        an entry of `evaluation.json` (see `baselines.metrics.record`).

    Raises:
        UserError: images, captions, reference or options that do not fit.
    """
    options.check()
    started = time.perf_counter()
    context = given_context(open_images(folder, captions), size, options, device)
    with torch.inference_mode():
        if options.independent is not None and captions is not None:
            pair = context.source, context.pairs
            context.encoders = [independent_judge(options.independent, *pair, MAX_WORDS, device)]
        bring(context, options, detector, encoder)
        sets, real = reference_sets(reference, context, options, device)
        batches = _batches(context.source, context.drawn, context, options, device)
        sets.append((ImageSet(IMAGES, context.drawn), batches))
        specs, left_out = choose(options.metrics, context)
        if reference is None:
            compared = {n: s for n, s in specs.items() if s.compares}
            left_out |= dict.fromkeys(compared, "it compares with real images: give --reference")
            specs = {name: spec for name, spec in specs.items() if name not in compared}
        results = measure(sets, context, specs)
    images = range(len(context.source))
    subject = {"images": str(folder), "captions": None if captions is None else str(captions)}
    return {
        "subject": subject | {"fingerprint": fingerprint(context.source, images)},
        "protocol": protocol_of(context, options, real),
        "environment": environment(options, device),
        **describe(results, specs, context, left_out),
        "seconds": round(time.perf_counter() - started, 1),
    }


def given_context(
    source: GivenImages,
    size: int | None,
    options: Options,
    device: torch.device,
) -> EvaluationContext:
    """Open the extractors for a folder of images of one size.

    Raises:
        UserError: more images are asked for than there are, or they differ in size.
    """
    size = size or common_size(source)
    pairs = read_pairs(source, None, 0)
    if options.images is not None and options.images > len(pairs):
        raise UserError(f"images is {options.images:,}: there are {len(pairs):,}; ask for fewer")
    return EvaluationContext(
        source=source,
        pairs=pairs,
        size=size,
        seed=options.seed,
        extractors={
            name: open_extractor(name, None, files=options.weights, device=device)
            for name in wanted_extractors(options)
        },
        reference_facts={"size": size},
        drawn=options.images or len(pairs),
    )


def protocol_of(context: EvaluationContext, options: Options, real: int) -> dict[str, Any]:
    """Say what must agree before folders are compared: captions and reference, not the images."""
    asked = [context.source.captions(index) for index in context.pairs.images.tolist()]
    digest = hashlib.sha256(repr(sorted(asked)).encode())
    for name in sorted(context.reference):
        facts = context.reference[name]
        digest.update(repr((name, facts.count, facts.statistics.mean.tolist())).encode())
    return {
        "data": {"name": IMAGES},
        "fingerprint": digest.hexdigest()[:16],
        "split": "test",
        "size": context.size,
        "images": context.drawn,
        "real_images": real,
        "samples": 1,
        "seed": options.seed,
    }


def reference_sets(
    reference: Path | None, context: EvaluationContext, options: Options, device: torch.device
) -> tuple[Sets, int]:
    """Set up the real images of a folder, or take their features from a file.

    Returns:
        the sets to measure first, and how many real images there are.
    """
    if reference is None:
        return [], 0
    if reference.is_dir():
        real = open_images(reference)
        count = len(real) if options.real_images is None else options.real_images
        if count > len(real):
            raise UserError(f"real_images is {count:,}: {reference} has {len(real):,}")
        images = ImageSet(REAL, count, real=True, paired=False)
        return [(images, _batches(real, count, context, options, device))], count
    saved = FeatureSet.load(reference)
    name = saved.provenance.extractor
    if name not in context.extractors:
        raise UserError(
            f"{reference} holds features of {name}; ask for them with --extractor {name}"
        )
    if len(context.extractors) > 1:
        others = ", ".join(other for other in context.extractors if other != name)
        raise UserError(f"{reference} holds features of {name} alone, not of {others}")
    context.reference[name] = saved
    return [], saved.count


def _batches(
    source: Source,
    count: int,
    context: EvaluationContext,
    options: Options,
    device: torch.device,
) -> Iterable[ImageBatch]:
    return real_batches(
        source, read_pairs(source, None, 0), count=count, size=context.size,
        batch_size=options.batch_size, workers=0, device=device,
    )  # fmt: skip
