"""Semantic object accuracy (SOA): is the class that a caption names found in its images?

Captions of a class are those that contain one of its words, as a part of other words too, and none
of its exclusions; the published lists are read from their files where figures are to stand beside
published ones, because the rule finds some 12 % more. An image in which nothing is found is a miss.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from baselines.data.restricted_pickle import load_pickle
from baselines.data.source import DataError
from baselines.metrics.detectors import Detection
from baselines.metrics.resampling import share
from baselines.metrics.spec import EvaluationContext, ImageSet, MetricSpec, Score

if TYPE_CHECKING:
    from baselines.metrics.images import ImageBatch

NAME = "soa"
CONFIDENCE = 0.5
PUBLISHED_SAMPLES = 3
HALF = 40
# Words that name a class, where they are others than the class itself.
WORDS: Mapping[str, tuple[str, ...]] = {
    "bicycle": ("bicycle", "bike"),
    "motorcycle": ("motor bike", "motorbike", "motor cycle", "motorcycle", "scooter", "dirt bike"),
    "airplane": ("plane", "jet", "aircraft"),
    "boat": ("boat", "ship"),
    "cat": ("cat", "kitten"),
    "handbag": ("handbag", "purse"),
    "suitcase": ("suitcase", "suit case"),
    "backpack": ("backpack", "rucksack"),
    "snowboard": ("snowboard", "snow board"),
    "skateboard": ("skateboard", "skate board"),
    "surfboard": ("surfboard", "surf board"),
    "sports ball": ("ball",),
    "tennis racket": ("racket",),
    "orange": ("oranges",),
    "hot dog": ("hot dog", "hotdog", "chili dog", "corn dog"),
    "couch": ("couch", "sofa"),
    "dining table": ("table", "desk"),
    "tv": ("tv", "screen", "monitor"),
    "mouse": ("computer mouse",),
    "cell phone": ("cell phone", "mobile phone"),
    "refrigerator": ("refrigerator", "fridge"),
    "scissors": ("scissor",),
    "hair drier": ("dryer", "drier"),
    "toothbrush": ("toothbrush", "tooth brush"),
    "teddy bear": ("teddy",),
}
# Words that contain a word of a class and are no object of it.
EXCLUDED: Mapping[str, tuple[str, ...]] = {
    "bicycle": ("motorbike", "motor bike", "dirt bike"),
    "car": ("cart", "carry", "carriage", "carrot", "carpet", "train car"),
    "bus": ("bush", "business"),
    "train": ("trainer",),
    "cat": ("catch", "cattle", "located", "scattered"),
    "dog": ("hot dog", "hotdog"),
    "cow": ("cowboy",),
    "bear": ("teddy", "stuffed bear", "beard"),
    "tie": ("tied", "tier", "variety"),
    "sports ball": ("balloon", "meatball", "baseball cap", "baseball hat"),
    "cup": ("cupboard", "cupcake", "occupied"),
    "bowl": ("toilet bowl", "bowling"),
    "apple": ("pineapple", "apple laptop", "apple computer"),
    "cake": ("cupcake",),
    "chair": ("wheelchair", "armchair"),
    "bed": ("barbed", "flatbed", "embedded"),
    "oven": ("microwave oven",),
}


def names_class(caption: str, label: str) -> bool:
    """Say whether a caption counts for a class.

    >>> names_class("A man on a workbench", "bench"), names_class("a Cattle ranch", "cat")
    (True, False)
    """
    text = caption.lower()
    words, excluded = WORDS.get(label, (label,)), EXCLUDED.get(label, ())
    return any(word in text for word in words) and not any(word in text for word in excluded)


def read_caption_list(path: Path) -> list[str]:
    """Read one published list: a pickle of captions, or of dictionaries or tuples with them.

    Nothing in the file is executed.

    Raises:
        DataError: it holds something else.
    """
    content = load_pickle(path)
    items = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(items, (list, tuple)):
        raise DataError(f"{path}: expected a list of captions, found {type(content).__name__}")
    return [_caption(path, number, item) for number, item in enumerate(items)]


def read_class_captions(folder: Path, labels: Sequence[str]) -> dict[str, frozenset[str]]:
    """Read the published lists of a folder: `label_NN_*.pkl`, NN the place of the class.

    Args:
        folder: with one file a class; classes without a file are left out.
        labels: of the detector, in the order of MS-COCO's 80 classes.

    Raises:
        DataError: no such file, or a place that the detector has no label for.
    """
    found = {}
    for path in sorted(folder.glob("label_*.pkl")):
        match = re.match(r"label_(\d+)_", path.name)
        if match is None or int(match[1]) >= len(labels):
            raise DataError(
                f"{path}: expected label_NN_NAME.pkl with NN below {len(labels)}, the number of "
                "the detector's labels"
            )
        found[labels[int(match[1])]] = frozenset(map(_spaced, read_caption_list(path)))
    if not found:
        raise DataError(f"{folder}: no lists of captions, expected label_00_person.pkl, ...")
    return found


def _spaced(caption: str) -> str:
    """Without line ends and double blanks, in which lists and annotations differ."""
    return " ".join(caption.split())


def _caption(path: Path, number: int, item: Any) -> str:
    if isinstance(item, dict):
        item = item.get("caption")
    elif isinstance(item, (list, tuple)):
        item = next((part for part in item if isinstance(part, (str, bytes))), None)
    if isinstance(item, bytes):
        item = item.decode("utf-8", "replace")
    if not isinstance(item, str):
        raise DataError(f"{path}: entry {number} holds no caption")
    return item


def hit(label: str, detections: Sequence[Detection]) -> bool:
    """Say whether a class is found in an image."""
    return any(d.label == label and d.score >= CONFIDENCE for d in detections)


def soa_scores(hits: Mapping[str, Sequence[bool]]) -> dict[str, Score]:
    """Sum up hits by class.

    Returns:
        soa_c: the mean of the classes' rates; soa_i: the rate of all images; top_40, bottom_40: the
        mean over the 40 classes with most and with fewest images, where there are more.
    """
    if not hits or any(not held for held in hits.values()):
        empty = sorted(name for name, held in hits.items() if not held)
        raise ValueError(f"SOA needs images of every class; none of {', '.join(empty) or 'any'}")
    rates = {name: sum(held) / len(held) for name, held in hits.items()}
    by_count = sorted(hits, key=lambda name: -len(hits[name]))
    right = torch.tensor([float(sum(held)) for held in hits.values()])
    images = torch.tensor([float(len(held)) for held in hits.values()])
    value, error, interval = share(right, images)
    parts = {"soa_c": list(rates)}
    if len(rates) > HALF:
        parts |= {"top_40": by_count[:HALF], "bottom_40": by_count[-HALF:]}
    scores = {
        name: Score(sum(rates[label] for label in labels) / len(labels), count=len(labels))
        for name, labels in parts.items()
    }
    scores["soa_i"] = Score(value, error=error, interval=interval, count=int(images.sum()))
    return scores


class SemanticObjectMetric:
    """`soa/...` of the classes that the captions name, by the detector of the evaluation."""

    def __init__(self, context: EvaluationContext, images: ImageSet) -> None:
        assert context.detector is not None
        self.context, self.detector = context, context.detector
        self.hits: dict[str, list[bool]] = {}

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        found = batch.detections(self.detector)
        for row, detections in zip(batch.rows.tolist(), found, strict=True):
            caption, listed = self.context.caption(row), self.context.class_captions
            for label in self.detector.labels:
                named = (
                    names_class(caption, label)
                    if listed is None
                    else (_spaced(caption) in listed.get(label, ()))
                )
                if named:
                    self.hits.setdefault(label, []).append(hit(label, detections))

    def scores(self) -> Mapping[str, Score]:
        """Give the rates, or none where no caption names a class."""
        if not self.hits:
            return {}
        return {f"{NAME}/{name}": score for name, score in soa_scores(self.hits).items()}


def _missing(context: EvaluationContext) -> str:
    if context.detector is None:
        return "it needs a detector: give --detector"
    if context.class_captions is not None:
        listed = frozenset[str]().union(*context.class_captions.values())
        rows = range(min(context.drawn, len(context.pairs)))
        if not any(_spaced(context.caption(row)) in listed for row in rows):
            return "no caption that is drawn is in the lists of --soa-captions"
    return ""


def _settings(context: EvaluationContext, part: str) -> Mapping[str, Any]:
    settings: dict[str, Any] = dict(context.detector.settings) if context.detector else {}
    if context.class_captions is not None:
        content = sorted((k, sorted(v)) for k, v in context.class_captions.items())
        settings["captions"] = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    return settings


def _warnings(context: EvaluationContext) -> list[str]:
    if context.samples != PUBLISHED_SAMPLES:
        return [
            f"SOA of {context.samples} image a caption where published figures are of "
            f"{PUBLISHED_SAMPLES}: --samples {PUBLISHED_SAMPLES}"
        ]
    return []


SPEC = MetricSpec(
    name=NAME,
    start=SemanticObjectMetric,
    title=lambda part: f"{part.upper().replace('_', '-')} % ↑",
    percent=True,
    missing=_missing,
    settings=_settings,
    warnings=_warnings,
    all_samples=True,
    note="SOA of real images is what the detector finds of what their captions name.",
)
