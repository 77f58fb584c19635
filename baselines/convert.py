r"""Original AttnGAN, DM-GAN, MirrorGAN and DAMSM checkpoints to ours and back.

    python -m baselines.convert text_encoder200.pth image_encoder200.pth bird_AttnGAN2.pth \
        --captions captions.pickle --out runs/attngan-released
    python -m baselines.convert --export runs/mine --out old-style

The first makes a run directory that `baselines.sample` and `baselines.evaluate` open; fewer files
are converted one by one. The second writes a run's networks under the originals' names.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.cli import Parser, run_command

# --help does not wait for torch: the work is imported when it is first used.
if TYPE_CHECKING:
    from baselines.conversion.convert import (
        ConversionError,
        convert,
        from_original,
        to_original,
    )

__all__ = [
    "ConversionError",
    "convert",
    "from_original",
    "to_original",
]
DATASETS = ("coco", "cub")


def __getattr__(name: str) -> Any:
    """Forward what Python code uses of this module to `baselines.conversion.convert`."""
    if name in __all__:
        from baselines.conversion import convert as work

        return getattr(work, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser(prog="python -m baselines.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="*", type=Path, help="original .pth files, in any order")
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    parser.add_argument("--captions", type=Path, help="the captions.pickle of the text encoder")
    parser.add_argument("--dataset", choices=DATASETS, default="cub", help="default: cub")
    parser.add_argument("--export", type=Path, metavar="RUN", help="the other direction")
    args = parser.parse_args(arguments)
    if bool(args.files) == bool(args.export):
        parser.error("give either files to convert or --export RUN")
    from baselines.conversion.convert import convert, export

    if args.export:
        lines = export(args.export, args.out)
    else:
        lines = convert(args.files, args.out, args.captions, args.dataset)
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(main)
