"""Colours of detected objects by an encoder of images and texts, as GenEval names them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.metrics.detectors import Detection
from baselines.metrics.image_text import ImageTextJudge

# GenEval's colours, templates and the grey of what is not the object; published with CLIP ViT-L/14.
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
TEMPLATES = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
GREY = 0x99 / 127.5 - 1


def name_colours(judge: ImageTextJudge, image: Tensor) -> Callable[[Detection], str]:
    """Make a function that names the colour of an object detected in an image.

    The object's box is cut out, grey outside its mask where the detector gives one; its colour is
    that whose texts, averaged over the templates, lie nearest.

    Args:
        judge: an encoder.
        image: (3, H, W) in [-1, 1].
    """

    def colour_of(detection: Detection) -> str:
        code = judge(cut_out(image, detection)[None]).code[0]
        likeness = [code @ _direction(judge, colour, detection.label) for colour in COLOURS]
        return COLOURS[int(torch.stack(likeness).argmax())]

    return colour_of


def _direction(judge: ImageTextJudge, colour: str, label: str) -> Tensor:
    texts = [template.format(colour, label) for template in TEMPLATES]
    return F.normalize(judge.texts(texts).mean(dim=0), dim=0)


def cut_out(image: Tensor, detection: Detection) -> Tensor:
    """(3, h, w): the pixels that a detection's box touches, grey outside its mask.

    Args:
        image: (3, H, W) in [-1, 1].
        detection: with or without a mask (H, W).
    """
    height, width = image.shape[1:]
    left, top, right, bottom = detection.box
    # One pixel at least, also of a box on the border.
    x = min(width - 1, max(0, math.floor(left * width)))
    y = min(height - 1, max(0, math.floor(top * height)))
    columns = slice(x, max(x + 1, math.ceil(right * width)))
    rows = slice(y, max(y + 1, math.ceil(bottom * height)))
    if detection.mask is not None:
        image = torch.where(detection.mask.to(image.device), image, GREY)
    return image[:, rows, columns]
