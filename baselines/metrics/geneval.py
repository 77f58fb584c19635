"""GenEval: does a detector find what a prompt asks for? Any generator, the same prompts.

The protocol of Ghosh et al. 2023: boxes above a confidence of 0.3 (0.9 for counting), at most 16
of a class, the most confident first; every object asked for must be there as often as asked, in
its colour and in its position to another; objects excluded must not be there as often. The overall
score is the mean over the six tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baselines.data.reading import parse_json, quoted, read_lines
from baselines.data.source import DataError
from baselines.metrics.detectors import Detection
from baselines.metrics.relations import Rule, geneval
from baselines.metrics.resampling import share
from baselines.metrics.spec import Score

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CONFIDENCE, COUNTING_CONFIDENCE, MOST = 0.3, 0.9, 16
METADATA, SAMPLES = "metadata.jsonl", "samples"
IMAGES = (".png", ".jpg", ".jpeg")
_FORM = '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "..."}'


@dataclass(frozen=True)
class Wanted:
    """Objects asked for: a class, how many, in which colour, in which relation to which group."""

    label: str
    count: int
    colour: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class Prompt:
    """One line of GenEval's metadata: its task, its text, what must and what must not be there."""

    tag: str
    text: str
    include: tuple[Wanted, ...]
    exclude: tuple[Wanted, ...] = ()


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts, one JSON object a line.

    Raises:
        DataError: naming the line and what it lacks.
    """
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            try:
                found.append(parse_prompt(parse_json(line)))
            except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
                raise DataError(
                    f"{path}, line {number}: {type(error).__name__} {error}; expected a line like "
                    f"{_FORM}"
                ) from error
    if not found:
        raise DataError(f"{path}: no prompt; expected a line like {_FORM} for each")
    return found


def parse_prompt(content: Mapping[str, Any]) -> Prompt:
    """Read one prompt; errors of all kinds where it has another form."""
    include, exclude = (
        tuple(
            Wanted(
                str(item["class"]),
                int(item["count"]),
                item.get("color"),
                _position(item.get("position")),
            )
            for item in content.get(kind, ())
        )
        for kind in ("include", "exclude")
    )
    if not include:
        raise ValueError('nothing under "include"')
    for number, wanted in enumerate(include):
        if wanted.position is not None and not 0 <= wanted.position[1] < number:
            raise ValueError(f"position refers to group {wanted.position[1]}, not before it")
    return Prompt(_string(content, "tag"), _string(content, "prompt"), include, exclude)


def _string(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is {quoted(value)}, no string")
    return value


def _position(value: Any) -> tuple[str, int] | None:
    return None if value is None else (str(value[0]), int(value[1]))


def read_folder(folder: Path) -> list[tuple[Prompt, list[Path]]]:
    """Read GenEval's image folder: `00000/metadata.jsonl` with `00000/samples/*.png`, ...

    Raises:
        DataError: no such folder, or a prompt without images.
    """
    found = []
    for path in sorted(folder.glob(f"*/{METADATA}")):
        images = sorted(p for p in (path.parent / SAMPLES).glob("*") if p.suffix.lower() in IMAGES)
        if not images:
            raise DataError(f"{path.parent / SAMPLES}: no images ({', '.join(IMAGES)})")
        found.append((read_prompts(path)[0], images))
    if not found:
        raise DataError(f"{folder}: no prompt folders; expected {folder / '00000' / METADATA}, ...")
    return found


def holds(
    prompt: Prompt,
    detections: Iterable[Detection],
    *,
    rule: Rule = geneval,
    colour_of: Callable[[Detection], str] | None = None,
) -> tuple[bool, str]:
    """Judge one image.

    Args:
        prompt: what is asked for.
        detections: of the image, all classes.
        rule: when two boxes are in a relation.
        colour_of: names the colour of an object; by default what the detector says.

    Returns:
        whether everything holds, and what does not ("" if nothing).
    """
    least = COUNTING_CONFIDENCE if prompt.tag == "counting" else CONFIDENCE
    objects: dict[str, list[Detection]] = {}
    for found in sorted(detections, key=lambda d: -d.score):
        group = objects.setdefault(found.label, [])
        if found.score > least and len(group) < MOST:
            group.append(found)
    named = colour_of or (lambda detection: detection.colour or "")
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []
    for wanted in prompt.include:
        group = objects.get(wanted.label, [])[: wanted.count]
        reason = _fault(wanted, group, groups, rule, named)
        groups.append(None if reason else group)
        reasons += [reason] if reason else []
    for excluded in prompt.exclude:
        if len(objects.get(excluded.label, ())) >= excluded.count:
            reasons.append(f"{excluded.count} or more of {excluded.label}")
    return not reasons, "; ".join(reasons)


def _fault(
    wanted: Wanted,
    group: Sequence[Detection],
    before: Sequence[list[Detection] | None],
    rule: Rule,
    colour_of: Callable[[Detection], str],
) -> str:
    """What is wrong with the group found for one thing asked for, or ""."""
    if len(group) < wanted.count:
        return f"{len(group)} of {wanted.count} {wanted.label}"
    if wanted.colour is not None:
        right = sum(colour_of(found) == wanted.colour for found in group)
        if right < wanted.count:
            return f"{right} of {wanted.count} {wanted.label} {wanted.colour}"
    if wanted.position is not None:
        relation, target = wanted.position
        others = before[target]
        if others is None:
            return f"nothing for {wanted.label} to be {relation}"
        if not all(relation in rule(a.box, b.box) for a in group for b in others):
            return f"{wanted.label} is not {relation} its target"
    return ""


def task_scores(verdicts: Iterable[tuple[str, Sequence[bool]]]) -> dict[str, Score]:
    """Give the share of right images by task, and "overall", the mean over the tasks.

    Args:
        verdicts: for every prompt its task and the verdicts of its images.
    """
    by_task: dict[str, list[Sequence[bool]]] = {}
    for tag, held in verdicts:
        by_task.setdefault(tag, []).append(held)
    order = [*TASKS, *sorted(by_task.keys() - set(TASKS))]
    scores = {}
    for task in (name for name in order if name in by_task):
        right = torch.tensor([float(sum(held)) for held in by_task[task]])
        stated = torch.tensor([float(len(held)) for held in by_task[task]])
        value, error, interval = share(right, stated)
        scores[task] = Score(value, error=error, interval=interval, count=int(stated.sum()))
    overall = sum(score.value for score in scores.values()) / len(scores) if scores else math.nan
    errors = [score.error or 0.0 for score in scores.values()]
    scores["overall"] = Score(
        overall, error=math.hypot(*errors) / max(1, len(errors)), facts={"tasks": len(errors)}
    )
    return scores
