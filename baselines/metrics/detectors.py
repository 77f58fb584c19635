"""Detectors: from images to labelled boxes, so that one set of rules judges any data.

- `scenes`: exact on drawn scenes; the labels are shapes, and it names colours.
- torchvision's COCO models by their own names (`COCO_DETECTORS`): usual download, or a file.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from baselines.data.scene_content import SHAPES, CornerBox
from baselines.errors import UserError
from baselines.metrics import COCO_DETECTORS, SCENES
from baselines.metrics.extractors import weights_hash
from baselines.metrics.scene_parsing import find_components


class DetectorError(UserError):
    """A detector cannot be had; the message says what is missing and the remedy."""


@dataclass(frozen=True)
class Detection:
    """One object found: its label, the detector's confidence, its box, its colour if it says so.

    The box is (left, top, right, bottom) in shares of the picture's width and height; the mask says
    which of its pixels (H, W) are the object's, where the detector tells.
    """

    label: str
    score: float
    box: CornerBox
    colour: str | None = None
    mask: Tensor | None = field(default=None, compare=False, repr=False)


class Detector(Protocol):
    """Images to detections. `settings` say what its findings depend on."""

    labels: tuple[str, ...]
    names_colours: bool
    settings: dict[str, str]

    def __call__(self, images: Tensor) -> list[list[Detection]]:
        """Find the objects of (B, 3, H, W) images in [-1, 1], most confident first."""
        ...


class SceneDetector:
    """Finds the coloured shapes of `scenes`.

    Args:
        strict: only objects that are sharp and even; otherwise every region of a colour counts as
            the shape that fits it best, which stands blur.
    """

    labels: tuple[str, ...] = SHAPES
    names_colours = True

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.settings = {"detector": SCENES, "finding": "strict" if strict else "graded"}

    def __call__(self, images: Tensor) -> list[list[Detection]]:
        """Find the objects of (B, 3, S, S) images in [-1, 1]; the score is the overlap."""
        found = []
        for image in images.float().nan_to_num(0.0).cpu():
            components = [c for c in find_components(image) if c.sharp or not self.strict]
            found.append(
                sorted(
                    (Detection(c.shape, c.overlaps[c.shape], c.box, c.colour) for c in components),
                    key=lambda detection: -detection.score,
                )
            )
        return found


class CocoDetector:
    """One of torchvision's detectors, trained on COCO.

    Args:
        network: takes a list of (3, H, W) in [0, 1], gives boxes, labels and scores of each, and
            masks where it knows them.
        categories: names by label; "N/A" and "__background__" are none.
        name: of the network.
    """

    names_colours = False

    def __init__(self, network: torch.nn.Module, categories: list[str], name: str) -> None:
        self.network, self.categories = network, categories
        self.labels = tuple(c for c in categories if c not in ("N/A", "__background__"))
        self.settings = {"detector": name, "weights": weights_hash(network)}

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[list[Detection]]:
        """Find the objects of (B, 3, H, W) images in [-1, 1]."""
        height, width = images.shape[2:]
        pixels = (images.float().clamp(-1, 1) + 1) / 2
        found = []
        for result in self.network(list(pixels)):
            boxes = result["boxes"].cpu() / torch.tensor([width, height, width, height])
            # Mask R-CNN gives (N, 1, H, W) probabilities, the others nothing.
            masks = [m[0].cpu() >= 0.5 for m in result.get("masks", ())] or [None] * len(boxes)
            labels, scores = result["labels"].tolist(), result["scores"].tolist()
            detections = [
                Detection(
                    self.categories[label], score, (box[0], box[1], box[2], box[3]), mask=mask
                )
                for box, label, score, mask in zip(
                    boxes.tolist(), labels, scores, masks, strict=True
                )
            ]
            found.append(sorted(detections, key=lambda detection: -detection.score))
        return found


def open_detector(name: str, *, file: Path | None = None, device: torch.device) -> Detector:
    """Open the detector called `name`.

    Args:
        name: "scenes" or one of `COCO_DETECTORS`.
        file: weights of a COCO detector; without it they are fetched by the usual download.
        device: where to.

    Raises:
        DetectorError: unknown name, or weights that are missing, unreachable or do not fit.
    """
    if name == SCENES:
        return SceneDetector()
    if name not in COCO_DETECTORS:
        nearest = difflib.get_close_matches(name, (SCENES, *COCO_DETECTORS), n=1, cutoff=0.0)[0]
        raise DetectorError(f"unknown detector {name!r}; the nearest is {nearest!r}")
    if file is not None and not file.is_file():
        raise DetectorError(f"{file}: no such file of weights of {name}")
    from torchvision.models import get_model, get_model_weights

    weights: Any = get_model_weights(name).DEFAULT
    try:
        if file is None:
            network = get_model(name, weights=weights)
        else:
            network = get_model(name, weights=None, weights_backbone=None)
            network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except OSError as error:
        raise DetectorError(
            f"the weights of {name} could not be fetched ({type(error).__name__}). Fetch "
            f"{Path(weights.url).name} elsewhere and give it with --detector-weights FILE"
        ) from error
    except Exception as error:
        raise DetectorError(
            f"{file}: not the weights of torchvision's {name} ({type(error).__name__})"
        ) from error
    return CocoDetector(network.to(device).eval(), weights.meta["categories"], name)
