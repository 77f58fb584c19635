"""Measure a trained run: `python -m baselines.evaluate --run runs/x`.

Draws an image for every caption of the test split with the averaged weights, and adds the numbers,
with every setting that they depend on, to `evaluation.json` in the run directory.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from baselines.cli import run_command
from baselines.errors import UserError
from baselines.metrics import METRICS
from baselines.metrics.evaluation import Options, evaluate
from baselines.metrics.extractors import EXTRACTORS
from baselines.metrics.fid import PUBLISHED_COUNT
from baselines.metrics.record import RESULT, store
from baselines.metrics.report import table
from baselines.runs import INITIAL, load_run
from baselines.sampling.pipeline import usable_device

logger = logging.getLogger(__name__)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m baselines.evaluate", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run directory")
    parser.add_argument(
        "--images",
        type=int,
        help=f"captions to draw for: by default all, at most {PUBLISHED_COUNT:,}",
    )
    parser.add_argument(
        "--real-images", type=int, help="real images to compare with: by default all of the split"
    )
    parser.add_argument("--samples", type=int, default=1, help="images drawn for each caption")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--metrics", help=f"some of {','.join(METRICS)}; by default all that can be had"
    )
    parser.add_argument(
        "--extractor",
        default="damsm",
        help=f"features of fid, kid and is, some of {','.join(EXTRACTORS)}",
    )
    parser.add_argument(
        "--weights", action="append", default=[], metavar="EXTRACTOR=FILE",
        help="weights of an extractor from a file instead of the usual download (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--inception", type=Path, metavar="FILE", help="the same for the Inception asked for"
    )
    parser.add_argument(
        "--independent-encoder", type=Path, metavar="RUN",
        help="also measure R-precision by encoders that the generator was not trained with",
    )  # fmt: skip
    parser.add_argument(
        "--before-after", action="store_true", help="measure the untrained generator too"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of noise, candidates, shuffles and resampling"
    )
    parser.add_argument(
        "--out", type=Path, help=f"instead of {RESULT} in the run directory; nothing is left there"
    )
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def weight_files(args: argparse.Namespace) -> dict[str, Path]:
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
        asked = [name for name in args.extractor.split(",") if name in EXTRACTORS]
        asked = [name for name in asked if EXTRACTORS[name].is_inception]
        if len(asked) > 1:
            raise UserError(
                "one file of weights cannot serve two Inceptions; use --weights EXTRACTOR=FILE"
            )
        files |= dict.fromkeys(asked, args.inception)
    return files


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    path = args.out or args.run / RESULT
    options = Options(
        metrics=args.metrics.split(",") if args.metrics else None,
        extractors=args.extractor.split(","),
        weights=weight_files(args),
        images=args.images,
        real_images=args.real_images,
        samples=args.samples,
        independent=args.independent_encoder,
        batch_size=args.batch_size,
        seed=args.seed,
        cache=path.parent,
    )
    options.check()
    device = usable_device(args.device)
    run = load_run(args.run, device=device)
    untrained = load_run(args.run, device=device, weights=INITIAL) if args.before_after else None
    entry = evaluate(run, options, untrained=untrained)
    store(path, entry)
    print(table(entry))
    for warning in entry["warnings"]:
        logger.warning("WARNING (%s): %s.", warning["metric"], warning["reason"])
    print(f"\n{path}")


if __name__ == "__main__":
    run_command(main)
