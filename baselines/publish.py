"""Publish a trained run: `python -m baselines.publish runs/x --to DIR` or `--push OWNER/NAME`.

A folder of JSON and safetensors with a model card, which `baselines.load` opens; `--push` uploads
it to the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from baselines.cli import Parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = Parser(prog="python -m baselines.publish", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run directory of baselines.train")
    add("--to", type=Path, metavar="DIR", help="write the folder here")
    add("--push", metavar="OWNER/NAME", help="upload it to the Hugging Face Hub under this name")
    add("--private", action="store_true", help="with --push: a new model only its owner sees")
    add(
        "--licence", "--license", default="unknown", metavar="ID",
        help="of the weights, as the Hub calls it: mit, cc-by-4.0, ...; default: unknown",
    )  # fmt: skip
    add(
        "--weights", default="generator.safetensors", metavar="FILE",
        help="file of the run to publish: generator.safetensors, best.safetensors",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if not (args.to or args.push):
        parser.error("give --to DIR, --push OWNER/NAME or both")
    if args.private and not args.push:
        parser.error("--private: has no effect without --push")
    from baselines.hub import push
    from baselines.publishing.snapshot import push_to_hub, write_snapshot

    how = {"licence": args.licence, "weights": args.weights}
    if args.to is None:
        print(push_to_hub(args.run, args.push, private=args.private, **how))
        return
    print(write_snapshot(args.run, args.to, place=args.push or "", **how))
    if args.push:
        print(push(args.to, args.push, private=args.private))


if __name__ == "__main__":
    run_command(main)
