"""Runs as a page: `python -m baselines.report RUN [RUN ...]`.

Writes one HTML file that needs nothing beside it: what the runs are and where their settings
differ, their metrics with intervals, the same captions and noise drawn by each beside the real
images, where every word is, what changes with one word, the best and the worst by layout, and the
curves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cli import Parser, run_command, seed_number
from baselines.console import say
from baselines.errors import UserError

# --help does not wait for torch: what needs it is imported where it is used.
if TYPE_CHECKING:
    from baselines.pages.report_pictures import Block
    from baselines.pages.subjects import Subject
    from baselines.sampling.held_out import HeldOut

EDITED = 2  # captions
CHANGES = 3  # of each
RANKED = 5  # best, and as many worst


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m baselines.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run directories, of the same data")
    add("--out", type=Path, help="default: report.html in the first run")
    add("--title", default="", help="of the page")
    add("--captions", type=int, default=8, metavar="N", help="held-out captions shown")
    add("--samples", type=int, default=4, metavar="N", help="images of each, by each run")
    add("--drawn", type=int, default=200, metavar="N", help="captions the best and worst are of")
    add(
        "--edit", action="append", nargs="+", default=[], metavar="CAPTION",
        help="a caption and changed versions of it, instead of those that are found (repeatable)",
    )  # fmt: skip
    add("--seed", type=seed_number, default=0, help="of the noise")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    args = parser.parse_args(argv)
    for name in ("captions", "samples", "drawn"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: expected 1 or more")
    for captions in args.edit:
        if len(captions) < 2:
            raise UserError(f"--edit {captions[0]!r}: give a caption and a changed version of it")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    from baselines.files import write_text
    from baselines.pages.rendering import render
    from baselines.pages.subjects import open_subjects
    from baselines.sampling.held_out import held_out

    subjects, source = open_subjects(args.runs, args.device)
    pairs = held_out(subjects[0].pipeline, args.captions)
    from baselines.pages import report_numbers as numbers
    from baselines.pages import report_pictures as pictures
    from baselines.pages.report_ranked import best_and_worst

    metrics = numbers.metrics(subjects)
    if metrics.problem:
        say(f"without metrics: {metrics.problem}")
    names = ", ".join(subject.name for subject in subjects)
    page = render(
        "report.html",
        title=args.title or names,
        subjects=subjects,
        facts=[numbers.facts(subject) for subject in subjects],
        differences=numbers.differences(subjects),
        metrics=metrics,
        samples=pictures.samples(subjects, pairs, seed=args.seed, count=args.samples),
        words=[pictures.words(subjects, pair, seed=args.seed) for pair in pairs[:2]],
        edits=edits(subjects, pairs, args.edit, args.seed),
        ranked=[
            (
                each,
                dict(best_and_worst(each, source, seed=args.seed, drawn=args.drawn, count=RANKED)),
            )
            for each in subjects
        ],
        drawn=args.drawn,
        curves=numbers.curves(subjects),
        command=command_line(args),
    )
    out = args.out or args.runs[0] / "report.html"
    write_text(out, page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB")


def edits(
    subjects: Sequence[Subject], pairs: Sequence[HeldOut], given: Sequence[Sequence[str]], seed: int
) -> list[Block]:
    """Edits that were asked for, else those that the shown captions offer."""
    from baselines.pages.report_pictures import edits as drawn_edits
    from baselines.sampling.edits import suggested_edits

    chosen = [list(captions) for captions in given]
    if not chosen:
        vocabulary = subjects[0].pipeline.vocabulary
        texts = [pair.caption.text for pair in pairs]
        chosen = [[text, *suggested_edits(text, vocabulary, CHANGES)] for text in texts]
        # Those of which most can be changed; of equals the first.
        chosen = sorted((c for c in chosen if len(c) > 1), key=len, reverse=True)[:EDITED]
    return [
        drawn_edits(subjects, captions, seed=seed + place) for place, captions in enumerate(chosen)
    ]


def command_line(args: argparse.Namespace) -> str:
    """How to make the same page again."""
    runs = " ".join(str(path) for path in args.runs)
    return (
        f"python -m baselines.report {runs} --captions {args.captions} --samples {args.samples} "
        f"--drawn {args.drawn} --seed {args.seed}"
    )


if __name__ == "__main__":
    run_command(main)
