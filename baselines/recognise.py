"""What encoders see: `python -m baselines.recognise --encoders runs/demo/damsm`.

Every held-out caption competes with itself under every other word of a kind (another shape, another
colour), and the share is printed that fits its real image best. A generator learns from these
encoders no word that they do not tell apart: where a share is low, train them longer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cli import Parser, number, run_command
from baselines.config import Config
from baselines.errors import UserError
from baselines.settings import at_least

if TYPE_CHECKING:
    import torch

    from baselines.data.source import Source
    from baselines.metrics.recognition import Meanings
    from baselines.metrics.spec import Score

RESULT = "recognition.json"


def kind(text: str) -> tuple[str, list[str]]:
    """Read an option such as wing=wings,tail,beak."""
    name, _, words = text.partition("=")
    found = [word.strip() for word in words.split(",")]
    if not name or len(found) < 2 or not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected NAME=WORD,WORD,... of different words"
        )
    return name, found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m baselines.recognise", description=__doc__)
    parser.add_argument(
        "--encoders", type=Path, required=True, metavar="RUN", help="a run directory of damsm"
    )
    parser.add_argument("--data-root", help="where the images lie, if they were moved")
    parser.add_argument(
        "--images",
        type=number(int, at_least(1)),
        default=400,
        help="of the test split, default 400",
    )
    parser.add_argument(
        "--kind", type=kind, action="append", metavar="NAME=WORD,WORD",
        help="words that exclude each other; by default those of scenes, and elsewhere colours",
    )  # fmt: skip
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help=f"instead of {RESULT} in RUN")
    return parser.parse_args(argv)


def measure(
    config: Config,
    run_dir: Path,
    source: Source,
    kinds: Mapping[str, Meanings],
    images: int,
    device: torch.device,
) -> dict[str, dict[str, Score]]:
    """Recognition of every kind by the encoders of a run directory."""
    from baselines.metrics.recognition import recognition
    from baselines.runs import load_encoders

    encoders = load_encoders(run_dir)
    encoders.text.to(device)
    encoders.image.to(device)
    return {
        name: recognition(
            encoders,
            source,
            meanings,
            images=images,
            max_words=config.data.max_words,
            gamma1=config.loss.gamma1,
            gamma2=config.loss.gamma2,
            device=device,
        )
        for name, meanings in kinds.items()
    }


def table(found: Mapping[str, Mapping[str, Score]]) -> str:
    """Lay the shares out as a Markdown table."""
    from baselines.metrics.record import plain
    from baselines.metrics.report import cell, markdown

    lines = [["told apart, %", "chance", "by words", "by sentence", "phrases"]]
    shown = {"percent": True}
    for name, scores in found.items():
        chance = cell({"value": scores["words"].chance}, shown)
        cells = (cell(plain(scores[by]), shown) for by in ("words", "sentence"))
        lines.append([name, chance, *cells, str(scores["words"].count)])
    return "\n".join(markdown(lines))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    from baselines.config import load_config
    from baselines.data import open_source
    from baselines.files import write_text
    from baselines.metrics.recognition import PHOTOGRAPH_KINDS, SCENE_KINDS, each
    from baselines.metrics.record import plain
    from baselines.runs import CONFIG
    from baselines.training.distributed import pick_device

    path = args.encoders / CONFIG
    if not path.is_file():
        raise UserError(f"{path}: no such file; --encoders takes a run directory of damsm")
    config = load_config(path)
    data = config.data
    if args.data_root is not None:
        data = dataclasses.replace(data, root=args.data_root)
    source = open_source(data, "test")
    usual = SCENE_KINDS if data.name == "scenes" else PHOTOGRAPH_KINDS
    kinds = {name: each(words) for name, words in args.kind} if args.kind else usual
    found = measure(config, args.encoders, source, kinds, args.images, pick_device(args.device))
    print(table(found))
    silent = [name for name, scores in found.items() if not scores["words"].count]
    for name in silent:
        print(f"WARNING: no caption of these images has a word of the kind {name}.")
    report = {
        "data": {"name": source.name, "split": source.split, "fingerprint": source.fingerprint},
        "images": min(args.images, len(source)),
        "kinds": {
            name: {
                "meanings": [list(same) for same in kinds[name]],
                **{by: plain(score) for by, score in scores.items()},
            }
            for name, scores in found.items()
        },
    }
    out = args.out or args.encoders / RESULT
    write_text(out, json.dumps(report, indent=2, allow_nan=False) + "\n")
    print(f"\n{out}")


if __name__ == "__main__":
    run_command(main)
