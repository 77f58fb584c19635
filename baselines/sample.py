"""Captions to images: `python -m baselines.sample --run runs/x --text "a small red bird"`.

Without any caption, captions of the run's own test split are drawn beside the real images.
Noise follows from the seed and the number of the sample: all captions share it, so that they can
be compared, and a caption draws the same image in any company.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cli import Parser, fail, one_line, run_command, seed_number
from baselines.errors import UserError

# --help does not wait for torch: what needs it is imported where it is used.
if TYPE_CHECKING:
    from torch import Tensor

    from baselines.pictures.sheet import CaptionText
    from baselines.sampling.album import Album
    from baselines.sampling.drawing import Inputs
    from baselines.sampling.held_out import HeldOut
    from baselines.sampling.pipeline import EncodedCaption, Pipeline

TEST_IMAGES = 8
COLUMNS = 6
STEPS_SHOWN = 12


def _count(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number, {least} or more")
        return int(text)

    return number


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="python -m baselines.sample",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--run",
        required=True,
        help="run directory, converted originals, or OWNER/NAME on the Hub",
    )
    add("stdin", nargs="*", metavar="-", help="read captions from standard input, one a line")
    add("--text", action="append", default=[], metavar="CAPTION", help="may be repeated")
    add("--captions", metavar="FILE", help="UTF-8 text, one caption a line")
    add("--samples", type=_count(1), default=1, metavar="N", help="images per caption, or paths")
    add("--seed", type=seed_number, default=0, help="of the noise, which all captions share")
    add("--mean-conditioning", action="store_true", help="no conditioning noise: less varied")
    add(
        "--truncation", type=float, default=0.0, metavar="RATE",
        help="this many times noise cut off at 2: cleaner, less varied; DF-GAN's is 0.88",
    )  # fmt: skip
    add("--all-stages", action="store_true", help="also the smaller images of every stage")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--grid", action="store_true", help="only captioned pages")
    what.add_argument("--singles", action="store_true", help="only single files")
    add("--overlays", action="store_true", help="where the model puts every word")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--edit", action="append", default=[], metavar="CAPTION",
        help="first a caption, then changed versions: drawn from the same noise, changes marked",
    )  # fmt: skip
    mode.add_argument(
        "--interpolate-noise", type=_count(2), default=0, metavar="N",
        help="N images from one noise to the next, for every caption",
    )  # fmt: skip
    mode.add_argument(
        "--interpolate-captions", type=_count(2), default=0, metavar="N",
        help="N images from the first of exactly two --text to the second",
    )  # fmt: skip
    add("--out", metavar="DIR", help="where the pictures go; default: samples in the run")
    add("--batch-size", type=_count(1), default=16, metavar="N", help="images drawn at once")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; returns the exit status. A mistake of the user's is one line on stderr and status 2."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    check(parser, options)
    from baselines import hub
    from baselines.sampling.album import Album
    from baselines.sampling.pipeline import load

    try:
        texts = given_captions(options)
        pipeline = load(options.run, device=options.device, truncation=options.truncation)
        shown = [] if texts else shown_without_caption(pipeline)
        captions = pipeline.read(texts or [pair.caption.text for pair in shown])
        if options.overlays and not pipeline.has_layouts:
            raise UserError(
                f"--overlays: this {pipeline.run.config.model.name} has no stage that reads words"
            )
    except (UserError, OSError) as error:
        fail(one_line(error))
    # What was fetched lies in a cache, and a folder of its name would hide it from then on.
    beside = Path() if hub.is_name(options.run) else Path(options.run)
    album = Album(
        Path(options.out or beside / "samples"),
        singles=not options.grid,
        sheets=not options.singles,
        all_stages=options.all_stages,
        overlays=options.overlays or (bool(shown) and pipeline.has_layouts),
    )
    try:
        if options.interpolate_noise or options.interpolate_captions:
            draw_paths(options, pipeline, captions, album)
        else:
            draw_captions(options, pipeline, captions, [pair.image for pair in shown], album)
    except OSError as error:
        fail(f"cannot write the pictures: {one_line(error)}")
    print(f"images: {len(album.files)}, sheets: {len(album.pages)}, in {album.folder}")
    for page in album.pages:
        print(f"  {page}")
    return 0


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse combinations of options that mean nothing, with status 2."""
    if options.stdin not in ([], ["-"]):
        parser.error(f"{options.stdin[0]!r}: captions are given with --text")
    given = bool(options.text) + (options.captions is not None) + bool(options.stdin)
    if options.edit and given:
        parser.error("--edit brings its own captions: leave out --text, --captions and -")
    if len(options.edit) == 1:
        parser.error("--edit: give it at least twice, a caption and a changed version of it")
    if options.interpolate_captions and (len(options.text) != 2 or given > 1):
        parser.error("--interpolate-captions needs exactly two --text")
    if options.overlays and (options.interpolate_noise or options.interpolate_captions):
        parser.error("--overlays does not go with interpolation")


def given_captions(options: argparse.Namespace) -> list[str]:
    """The captions of --edit, --text, --captions and standard input, in this order.

    Raises:
        UserError: a source holds no caption or is not UTF-8.
        OSError: the file cannot be read.
    """
    captions = [*options.edit, *options.text]
    if options.captions is not None:
        captions += lines_of(Path(options.captions).read_bytes(), options.captions)
    if options.stdin:
        captions += lines_of(sys.stdin.buffer.read(), "standard input")
    return captions


def lines_of(content: bytes, name: str) -> list[str]:
    """The lines of a file of captions that are not blank."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise UserError(f"{name}: line {number} is not UTF-8; save the file as UTF-8") from None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{name}: holds no caption; write one a line")
    return lines


def shown_without_caption(pipeline: Pipeline) -> list[HeldOut]:
    """What is drawn where no caption is given: a few of the run's test split.

    Raises:
        DataError: the data set of the run is not where the run found it.
    """
    from baselines.data import DataError
    from baselines.sampling.held_out import held_out

    try:
        return held_out(pipeline, TEST_IMAGES)
    except DataError as error:
        raise DataError(f"no caption given, and {error}") from error


def draw_captions(
    options: argparse.Namespace,
    pipeline: Pipeline,
    captions: Sequence[EncodedCaption],
    real: Sequence[Tensor],
    album: Album,
) -> None:
    """All samples of all captions, batch by batch; pages of the grid as they fill up.

    Captions of the test split, with their `real` images, show what the model can do: the k-th
    is drawn with seed + k, so that they do not all share one composition.
    """
    from baselines.pictures.sheet import Word
    from baselines.sampling.pipeline import Drawings
    from baselines.sampling.variations import mark_unknown

    together = options.samples + bool(real)
    limit = max(1, COLUMNS // (len(pipeline.image_sizes) if options.all_stages else 1))
    columns = together * (limit // together) or limit
    kept = []
    groups = [[caption] for caption in captions] if real else [captions]
    stream = (
        drawings
        for place, group in enumerate(groups)
        for drawings in pipeline.stream(
            group,
            seed=options.seed + place,
            samples=options.samples,
            mean_conditioning=options.mean_conditioning,
            batch_size=options.batch_size,
        )
    )
    images = iter(real)
    for drawings in stream:
        album.add(drawings)
        if options.edit:
            kept.append(drawings)
            continue
        rows = zip(album.cells(drawings), drawings.captions, drawings.samples, strict=True)
        for cell, caption, sample in rows:
            if real and sample == 0:
                album.paste(next(images), [Word("real", "note")], columns)
            below: CaptionText = mark_unknown(caption)
            album.paste(cell, below if sample == 0 else [Word(f"sample {sample}", "note")], columns)
    if options.edit:
        album.edits(Drawings.joined(kept), options.samples)
    album.turn(columns)


def draw_paths(
    options: argparse.Namespace,
    pipeline: Pipeline,
    captions: Sequence[EncodedCaption],
    album: Album,
) -> None:
    """Interpolations: per caption from noise to noise, or per noise from caption to caption."""
    from baselines.pictures.sheet import Word
    from baselines.sampling.pipeline import Drawings
    from baselines.sampling.variations import caption_path, mark_unknown, noise_path

    def ends(caption: EncodedCaption, sample: int) -> Inputs:
        noise = pipeline.noise([sample], options.seed, options.mean_conditioning)
        return pipeline.encode([caption], *noise)

    def row(path: Inputs, name: str) -> list[Tensor]:
        output = pipeline.draw(path, options.batch_size)
        drawings = Drawings((), tuple(range(len(path))), output.images, ())
        for step in range(len(path)):
            album.single(f"{name}_{step:03d}", [stage[step] for stage in output.images])
        shown = min(STEPS_SHOWN, len(path))
        cells = album.cells(drawings)
        return [cells[round(n * (len(path) - 1) / (shown - 1))] for n in range(shown)]

    if options.interpolate_captions:
        first, last = captions
        steps = options.interpolate_captions
        name = f"{album.slug(first.text)}_to_{album.slug(last.text)}"
        rows = [
            row(caption_path(ends(first, s), ends(last, s), steps), f"{name}_{s}")
            for s in range(options.samples)
        ]
        between: list[CaptionText] = [[Word("")]] * (len(rows[0]) - 2)
        above: list[CaptionText] = [mark_unknown(first), *between, mark_unknown(last)]
        labels = [f"noise {s}" for s in range(options.samples)]
        album.comparison("interpolation", rows, labels, above)
        return
    for caption in captions:
        name = album.slug(caption.text)
        rows = [
            row(
                noise_path(ends(caption, s), ends(caption, s + 1), options.interpolate_noise),
                f"{name}_{s}-{s + 1}",
            )
            for s in range(options.samples)
        ]
        labels = [f"noise {s} → {s + 1}" for s in range(options.samples)]
        album.comparison(f"{name}_noise", rows, labels, title=mark_unknown(caption))


if __name__ == "__main__":
    run_command(main)
