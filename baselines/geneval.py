"""Score GenEval's tasks: `python -m baselines.geneval --images-from DIR`.

DIR is GenEval's own layout, which any generator can fill: `00000/metadata.jsonl` and
`00000/samples/0000.png`, ... With `--run RUN --prompts FILE` the images are drawn there first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from baselines.cli import Parser, run_command, seed_number
from baselines.errors import UserError
from baselines.files import write_atomic, write_text
from baselines.metrics import CLIPS
from baselines.metrics.colours import name_colours
from baselines.metrics.detectors import COCO_DETECTORS, SCENES, Detector, open_detector
from baselines.metrics.geneval import (
    METADATA,
    SAMPLES,
    TASKS,
    Prompt,
    holds,
    read_folder,
    read_prompts,
    task_scores,
)
from baselines.metrics.image_text import ImageTextJudge, open_clip_encoder
from baselines.metrics.images import read_image
from baselines.metrics.record import plain
from baselines.metrics.relations import RULES
from baselines.metrics.report import cell, markdown
from baselines.metrics.spec import Score
from baselines.metrics.visor import check, relation_prompt, visor_scores
from baselines.pictures.sheet import save_picture
from baselines.sampling.pipeline import load
from baselines.training.distributed import pick_device

RESULT = "geneval.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m baselines.geneval", description=__doc__)
    parser.add_argument("--images-from", type=Path, required=True, metavar="DIR")
    parser.add_argument("--run", type=Path, help="draw the prompts with this run first")
    parser.add_argument("--prompts", type=Path, help="evaluation_metadata.jsonl, with --run")
    parser.add_argument("--samples", type=int, default=4, help="images drawn for each prompt")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the noise")
    parser.add_argument(
        "--detector", default="maskrcnn_resnet50_fpn_v2",
        help=f"{SCENES} for drawn scenes, or one of {', '.join(COCO_DETECTORS)}",
    )  # fmt: skip
    parser.add_argument("--detector-weights", type=Path, metavar="FILE")
    parser.add_argument(
        "--clip", choices=CLIPS,
        help="names the colours of what is detected; published with ViT-L-14. Needs "
        "pip install open_clip_torch",
    )  # fmt: skip
    parser.add_argument(
        "--clip-weights", type=Path, metavar="FILE", help="instead of the usual download"
    )
    parser.add_argument("--rule", default="geneval", help=f"of relations: {', '.join(RULES)}")
    parser.add_argument(
        "--real", type=Path, metavar="DIR",
        help="real images of such prompts in the same layout: what the detector finds of them",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help=f"instead of {RESULT} in DIR")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def draw(run: Path, prompts: Path, folder: Path, samples: int, seed: int, device: str) -> None:
    """Draw every prompt into GenEval's layout.

    Raises:
        UserError: `folder` has images already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: choose another --images-from, or leave out --run")
    pipeline = load(run, device=device)
    wanted = read_prompts(prompts)
    lines = [line for line in prompts.read_text(encoding="utf-8").split("\n") if line.strip()]
    captions = pipeline.read([prompt.text for prompt in wanted])
    for number, (caption, line) in enumerate(zip(captions, lines, strict=True)):
        target = folder / f"{number:05d}"
        (target / SAMPLES).mkdir(parents=True)
        write_text(target / METADATA, line + "\n")
        for drawings in pipeline.stream([caption], seed=seed, samples=samples):
            for sample, picture in zip(drawings.samples, drawings.pictures(), strict=True):
                save_picture(picture, target / SAMPLES / f"{sample:05d}.png")


def score(
    folder: Path,
    detector: Detector,
    rule: str,
    device: torch.device,
    judge: ImageTextJudge | None = None,
) -> dict[str, Score]:
    """Judge every image of a folder in GenEval's layout.

    Args:
        folder: of one folder a prompt.
        detector: finds the objects.
        rule: of relations, in the task "position"; VISOR's scores are by its own.
        device: where to.
        judge: names colours; by default the detector does, where it can.

    Returns:
        GenEval's tasks, and `visor/...` where prompts put one object in a relation to another.

    Raises:
        UserError: a prompt asks for what the detector has no label for.
    """
    entries = read_folder(folder)
    unknown = {w.label for prompt, _ in entries for w in prompt.include} - set(detector.labels)
    if unknown:
        raise UserError(
            f"the detector has no label for {', '.join(sorted(unknown))}; choose another --detector"
        )
    verdicts, related = [], []
    for prompt, paths in tqdm(entries, unit="prompt", desc=folder.name, dynamic_ncols=True):
        relation = relation_prompt(prompt)
        judged = detector.names_colours or judge is not None or not _asks_colour(prompt)
        if not judged and relation is None:
            continue
        held, outcomes = [], []
        for path in paths:
            image = read_image(path).to(device)
            found = detector(image[None])[0]
            if judged:
                colour_of = None if judge is None else name_colours(judge, image)
                held.append(holds(prompt, found, rule=RULES[rule], colour_of=colour_of)[0])
            if relation is not None:
                outcomes.append(check(relation, found))
        verdicts += [(prompt.tag, held)] if judged else []
        related += [outcomes] if relation is not None else []
    # VISOR-N needs as many samples of every prompt.
    samples = min(map(len, related), default=0)
    visor = visor_scores([outcomes[:samples] for outcomes in related]) if samples else {}
    return task_scores(verdicts) | {f"visor/{name}": score for name, score in visor.items()}


def _asks_colour(prompt: Prompt) -> bool:
    return any(wanted.colour is not None for wanted in prompt.include)


def warnings_of(
    args: argparse.Namespace,
    scores: Mapping[str, Score],
    detector: Detector,
    judge: ImageTextJudge | None,
) -> list[str]:
    """Say what must be known to read the scores."""
    found = []
    if judge is None and not detector.names_colours:
        found.append(
            f"left out what asks for a colour: {args.detector} names none; give --clip ViT-L-14"
        )
    missing = [task for task in TASKS if task not in scores]
    if missing:
        found.append(f"overall is the mean without {', '.join(missing)}")
    if args.real is None:
        found.append(
            "what the detector finds of real images of such prompts is not known; give --real DIR"
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    if args.rule not in RULES:
        raise UserError(f"--rule {args.rule}: expected one of {', '.join(RULES)}")
    if (args.run is None) != (args.prompts is None):
        raise UserError("--run and --prompts belong together: the prompts that the run draws")
    # Before minutes are spent on fetching weights.
    if args.prompts is not None:
        read_prompts(args.prompts)
    elif not args.images_from.is_dir():
        raise UserError(f"{args.images_from}: no such folder; draw one with --run and --prompts")
    device = pick_device(args.device)
    detector = open_detector(args.detector, file=args.detector_weights, device=device)
    judge = None
    if args.clip is not None:
        encoder = open_clip_encoder(args.clip, file=args.clip_weights, device=device)
        judge = ImageTextJudge(encoder)
    if args.run is not None:
        draw(args.run, args.prompts, args.images_from, args.samples, args.seed, args.device)
    columns = {"images": score(args.images_from, detector, args.rule, device, judge)}
    if args.real is not None:
        columns["real images"] = score(args.real, detector, args.rule, device, judge)
    tasks = list(dict.fromkeys(task for scores in columns.values() for task in scores))
    shown = {"percent": True}
    lines = [["task, %", *columns]]
    for task in tasks:
        cells = (scores.get(task) for scores in columns.values())
        lines.append([task, *(cell(plain(s) if s else None, shown) for s in cells)])
    print("\n".join(markdown(lines)))
    warnings = warnings_of(args, columns["images"], detector, judge)
    for warning in warnings:
        print(f"WARNING: {warning}.")
    report: dict[str, Any] = {
        "images": str(args.images_from),
        "settings": {
            **detector.settings,
            "rule": args.rule,
            **({} if judge is None else {"colours": judge.settings}),
        },
        "warnings": warnings,
        "scores": {
            name: {task: plain(score) for task, score in scores.items()}
            for name, scores in columns.items()
        },
    }
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    path = args.out or args.images_from / RESULT
    write_atomic(path, lambda file: file.write(text.encode()))
    print(f"\n{path}")


if __name__ == "__main__":
    run_command(main)
