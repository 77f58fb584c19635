"""Measure a trained run, or anybody's images.

`python -m baselines.evaluate --run runs/x` draws an image for every caption of the test split with
the averaged weights, and adds the numbers, with every setting that they depend on, to
`evaluation.json` in the run directory. `--images-from DIR` measures a folder of images instead.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cli import Parser, run_command, seed_number
from baselines.errors import UserError
from baselines.metrics import CLIPS, COCO_DETECTORS, METRICS, PUBLISHED_COUNT, SCENES
from baselines.metrics.extractors import EXTRACTORS
from baselines.metrics.record import RESULT, store
from baselines.metrics.report import table

# --help does not wait for torch: what needs it is imported where it is used.
if TYPE_CHECKING:
    from baselines.metrics.evaluation import Options

logger = logging.getLogger(__name__)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m baselines.evaluate", description=__doc__)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--run", type=Path, help="a run directory")
    subject.add_argument("--images-from", type=Path, metavar="DIR", help="a folder of images")
    parser.add_argument(
        "--captions", type=Path, metavar="FILE",
        help="of --images-from: .jsonl with file_name and text, or a caption a line",
    )  # fmt: skip
    parser.add_argument(
        "--reference", type=Path, metavar="FILE|DIR",
        help="real images to compare --images-from with: a folder, or a reference-*.npz",
    )  # fmt: skip
    parser.add_argument("--size", type=int, help="side to bring --images-from to")
    parser.add_argument(
        "--save-images", type=Path, metavar="DIR", help="write the drawn images and their captions"
    )
    add_judges(parser)
    add_measuring_options(parser)
    return parser.parse_args(argv)


def add_judges(parser: argparse.ArgumentParser) -> None:
    """Add who judges whether an image fits its caption."""
    parser.add_argument(
        "--independent-encoder", type=Path, metavar="RUN",
        help="also measure R-precision by encoders that the generator was not trained with",
    )  # fmt: skip
    parser.add_argument(
        "--clip", choices=CLIPS,
        help="for pa, and for R-precision by it: one of OpenAI's CLIPs (pip install "
        "open_clip_torch); pa is published with ViT-B-32",
    )  # fmt: skip
    parser.add_argument(
        "--clip-weights", type=Path, metavar="FILE", help="instead of the usual download"
    )
    parser.add_argument(
        "--detector",
        help=f"for soa and counting: one of {', '.join(COCO_DETECTORS)}, or {SCENES}",
    )
    parser.add_argument("--detector-weights", type=Path, metavar="FILE")
    parser.add_argument(
        "--soa-captions", type=Path, metavar="DIR",
        help="published lists of captions, label_00_person.pkl, ...: by default every caption that "
        "names a class",
    )  # fmt: skip
    parser.add_argument(
        "--pa-captions", type=Path, metavar="FILE",
        help='false captions, lines of {"text": ..., "false": ..., "word": ...}: by default '
        "every caption with a positional word, and that word turned over",
    )  # fmt: skip
    parser.add_argument(
        "--counts", type=Path, metavar="FILE",
        help='what captions count, lines of {"text": ..., "counts": {"dog": 2}}: by default '
        "their number words",
    )  # fmt: skip


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """Add how much is measured, and by what."""
    parser.add_argument(
        "--images",
        type=int,
        help=f"captions to draw for: by default all, at most {PUBLISHED_COUNT:,}",
    )
    parser.add_argument(
        "--real-images", type=int, help="real images to compare with: by default all of the split"
    )
    parser.add_argument(
        "--samples", type=int, default=1,
        help="images drawn for each caption: 3 are SOA's, of 4 graded layout says how many hold",
    )  # fmt: skip
    parser.add_argument(
        "--truncation", type=float, default=0.0, metavar="RATE",
        help="this many times noise cut off at 2, as in sampling; DF-GAN's FID has 0.88",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--metrics", help=f"some of {','.join(METRICS)}; by default all that can be had"
    )
    parser.add_argument(
        "--extractor",
        help=f"features of fid, kid and is, some of {','.join(EXTRACTORS)}; by default damsm, of "
        "--images-from inception-2015",
    )
    parser.add_argument(
        "--weights", action="append", default=[], metavar="EXTRACTOR=FILE",
        help="weights of an extractor from a file instead of the usual download (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--inception", type=Path, metavar="FILE", help="the same for the Inception asked for"
    )
    parser.add_argument(
        "--before-after", action="store_true", help="measure the untrained generator too"
    )
    parser.add_argument(
        "--seed", type=seed_number, default=0, help="of noise, candidates, shuffles and resampling"
    )
    parser.add_argument(
        "--out", type=Path, help=f"instead of {RESULT} in the run directory; nothing is left there"
    )
    parser.add_argument("--device", default="auto")


def weight_files(args: argparse.Namespace, extractors: Sequence[str]) -> dict[str, Path]:
    """Read `--weights` and `--inception` as files by extractor.

    Raises:
        UserError: an argument of another form, or one file for two Inceptions.
    """
    files = {}
    for given in args.weights:
        name, separator, file = given.partition("=")
        if not separator or name not in EXTRACTORS:
            known = ", ".join(EXTRACTORS)
            raise UserError(f"--weights {given}: write EXTRACTOR=FILE, EXTRACTOR one of {known}")
        files[name] = Path(file)
    if args.inception is not None:
        asked = [name for name in extractors if name in EXTRACTORS]
        asked = [name for name in asked if EXTRACTORS[name].is_inception]
        if len(asked) > 1:
            raise UserError(
                "one file of weights cannot serve two Inceptions; use --weights EXTRACTOR=FILE"
            )
        files |= dict.fromkeys(asked, args.inception)
    return files


def options_of(args: argparse.Namespace, cache: Path | None) -> Options:
    """Read what to measure from the command line.

    Raises:
        UserError: options that make no sense, or do not belong together.
    """
    from baselines.metrics.evaluation import Options

    alone = {"captions": args.captions, "reference": args.reference, "size": args.size}
    if args.run is not None:
        for name, value in alone.items():
            if value is not None:
                raise UserError(f"--{name} belongs to --images-from; a run has its own data")
    elif args.before_after or args.save_images is not None or args.samples != 1:
        raise UserError("--before-after, --save-images and --samples need --run, which draws")
    extractors = args.extractor or ("damsm" if args.run is not None else "inception-2015")
    options = Options(
        metrics=args.metrics.split(",") if args.metrics else None,
        extractors=extractors.split(","),
        weights=weight_files(args, extractors.split(",")),
        images=args.images,
        real_images=args.real_images,
        samples=args.samples,
        truncation=args.truncation,
        independent=args.independent_encoder,
        class_captions=args.soa_captions,
        false_captions=args.pa_captions,
        counts=args.counts,
        batch_size=args.batch_size,
        seed=args.seed,
        cache=cache,
        save_images=args.save_images,
    )
    options.check()
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    from baselines.metrics.detectors import open_detector
    from baselines.metrics.evaluation import evaluate
    from baselines.metrics.given import evaluate_images
    from baselines.metrics.image_text import open_clip_encoder
    from baselines.runs import INITIAL, load_run
    from baselines.training.distributed import pick_device

    path = args.out or (args.run or args.images_from) / RESULT
    options = options_of(args, path.parent if args.run is not None else None)
    device = pick_device(args.device)
    detector = None
    if args.detector is not None:
        detector = open_detector(args.detector, file=args.detector_weights, device=device)
    encoder = None
    if args.clip is not None:
        encoder = open_clip_encoder(args.clip, file=args.clip_weights, device=device)
    if args.run is None:
        entry = evaluate_images(
            args.images_from, args.captions, options, reference=args.reference, size=args.size,
            detector=detector, encoder=encoder, device=device,
        )  # fmt: skip
    else:
        run = load_run(args.run, device=device)
        before = load_run(args.run, device=device, weights=INITIAL) if args.before_after else None
        entry = evaluate(run, options, untrained=before, detector=detector, encoder=encoder)
    store(path, entry)
    print(table(entry))
    for warning in entry["warnings"]:
        logger.warning("WARNING (%s): %s.", warning["metric"], warning["reason"])
    print(f"\n{path}")


if __name__ == "__main__":
    run_command(main)
