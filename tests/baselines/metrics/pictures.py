"""Scenes, and what is done to pictures on their way to a metric."""

import io

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from baselines.data.scenes import Scenes


def pictures(count, size, *, max_objects=3, split="test", seed=4):
    scenes = Scenes(split, seed=seed, max_objects=max_objects, images=count)
    captions = [scenes.described(i)[i % 10] for i in range(count)]
    return scenes, torch.stack([scenes.image(i, size) for i in range(count)]), captions


def blurred(images):
    """The mean over 3 by 3 pixels."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def through_jpeg(images, quality=75):
    found = []
    for image in images:
        pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        read = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        found.append(read.float() / 127.5 - 1)
    return torch.stack(found)
