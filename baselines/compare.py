"""Compare evaluated runs: `python -m baselines.compare RUN RUN ...`.

Reads what `baselines.evaluate` wrote and prints one table. Runs that were measured on other data,
other numbers of images or other seeds are refused; the best of each row is bold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from baselines.cli import Parser, run_command
from baselines.errors import UserError
from baselines.files import write_atomic
from baselines.metrics.comparison import compare


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m baselines.compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories or files of evaluate"
    )
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    if len(args.runs) < 2:
        raise UserError("one run: give two or more to compare")
    text = compare(args.runs) + "\n"
    print(text, end="")
    if args.out is not None:
        write_atomic(args.out, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    run_command(main)
