"""Measure a trained run: `python -m baselines.evaluate --run runs/x`.

Draws an image for every caption of the test split with the averaged weights, and writes
`evaluation.json` with every setting that the numbers depend on into the run directory.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from baselines.cli import run_command
from baselines.files import write_text
from baselines.metrics.evaluation import Options, evaluate
from baselines.metrics.extractors import NAMES
from baselines.metrics.quality import PUBLISHED_COUNT, few_images_warning
from baselines.metrics.report import table
from baselines.metrics.scores import METRICS, check_names
from baselines.runs import INITIAL, load_run
from baselines.training.distributed import pick_device

RESULT = "evaluation.json"

logger = logging.getLogger(__name__)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m baselines.evaluate", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run directory")
    parser.add_argument(
        "--images",
        type=int,
        help=f"how many to draw: by default one for every caption, at most {PUBLISHED_COUNT:,}",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--metrics", help=f"some of {','.join(METRICS)}; by default all that can be had"
    )
    parser.add_argument(
        "--extractor", default="damsm", help=f"features of fid and is, some of {','.join(NAMES)}"
    )
    parser.add_argument(
        "--inception", type=Path, metavar="FILE", help="weights or TorchScript of the Inception"
    )
    parser.add_argument(
        "--before-after", action="store_true", help="measure the untrained generator too"
    )
    parser.add_argument("--seed", type=int, default=0, help="of noise, candidates and shuffles")
    parser.add_argument("--out", type=Path, help=f"instead of {RESULT} in the run directory")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    options = Options(
        metrics=args.metrics.split(",") if args.metrics else None,
        extractors=args.extractor.split(","),
        inception=args.inception,
        images=args.images,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    check_names(options.metrics or [])
    device = pick_device(args.device)
    run = load_run(args.run, device=device)
    untrained = load_run(args.run, device=device, weights=INITIAL) if args.before_after else None
    report = evaluate(run, options, untrained=untrained)
    path = args.out or args.run / RESULT
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    write_text(path, text)
    print(table(report))
    warning = few_images_warning(report["images"])
    if warning and any(row.startswith(("fid/", "is/")) for row in report["metrics"]):
        logger.warning(warning)
    print(f"\n{path}")


if __name__ == "__main__":
    run_command(main)
