"""Speed of drawing and parsing `scenes`, or with `--accuracy` how right the parsing is.

python -m benchmarks.scenes
python -m benchmarks.scenes --accuracy
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from baselines.cli import Parser, run_command
from baselines.data.scenes import Scenes
from baselines.metrics.layout import LayoutScore, check_caption, layout_checks
from baselines.metrics.scene_parsing import parse_scene
from benchmarks.options import at_least

ROUNDS = 5


def rate(work: Callable[[int], object], images: int) -> float:
    """Median over five rounds of calls of `work(index)` per second of this process's CPU time."""
    rates = []
    each = max(1, images // ROUNDS)
    for turn in range(ROUNDS):
        begin = time.process_time()
        for index in range(turn * each, (turn + 1) * each):
            work(index)
        rates.append(each / (time.process_time() - begin))
    return statistics.median(rates)


def _item(scenes: Scenes, size: int, index: int) -> object:
    return scenes.image(index, size), scenes.captions(index)


def _parsed(pictures: Sequence[Tensor], index: int) -> object:
    return parse_scene(pictures[index])


def print_speed(scenes: Scenes, sizes: list[int]) -> None:
    """One line per size: pictures alone, pictures with captions, and parsing."""
    print(f"scenes per second on one core, {platform.platform()}")
    print("size     drawn  with captions    parsed")
    for size in sizes:
        pictures = [scenes.image(i, size) for i in range(len(scenes))]
        works: tuple[Callable[[int], object], ...] = (
            partial(scenes.image, size=size),
            partial(_item, scenes, size),
            partial(_parsed, pictures),
        )
        drawn, items, parsed = (rate(work, len(scenes)) for work in works)
        print(f"{size:4d}  {drawn:8.0f}  {items:13.0f}  {parsed:8.0f}")


def print_accuracy(scenes: Scenes, sizes: list[int]) -> None:
    """Layout accuracy of true pictures, with captions of other scenes, and by chance."""
    captions = [scenes.described(i)[i % 10] for i in range(len(scenes))]
    shuffled = captions[1:] + captions[:1]
    truth = [check_caption(c, scenes.scene(i).objects) for i, c in enumerate(shuffled)]
    print("                   overall   objects     sizes    places  relations")
    _print_score("chance", LayoutScore.of(truth))
    for size in sizes:
        for name, told in (("true", captions), ("shuffled", shuffled)):
            # One picture at a time: a thousand of 256 pixels would fill a gigabyte.
            checks = [
                layout_checks(scenes.image(i, size)[None], [c])[0] for i, c in enumerate(told)
            ]
            _print_score(f"{size} px, {name}", LayoutScore.of(checks))


def _print_score(name: str, score: LayoutScore) -> None:
    print(
        f"{name:16s}  {score.overall:8.4f}  {score.objects:8.4f}  {score.sizes:8.4f}  "
        f"{score.places:8.4f}  {score.relations:9.4f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print one table."""
    parser = Parser(
        prog="python -m benchmarks.scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--sizes", type=at_least(8), nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--images", type=at_least(1), default=500)
    parser.add_argument("--max-objects", type=int, choices=(1, 2, 3), default=3)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    split = "test" if arguments.accuracy else "train"
    scenes = Scenes(split, images=arguments.images, max_objects=arguments.max_objects)
    (print_accuracy if arguments.accuracy else print_speed)(scenes, arguments.sizes)


if __name__ == "__main__":
    run_command(main)
