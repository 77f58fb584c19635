"""The original AttnGAN's own numbers, and the key lists of the originals."""

import functools
import re

import torch

from tests.support.paths import require, shared


@functools.cache
def golden() -> dict:
    return torch.load(require(shared("golden", "attngan.pt")), weights_only=True)


def after_training(g: dict) -> dict:
    """G's state once the golden training pass has moved its statistics."""
    return g["state_initial"] | g["buffers_eval"]


def listed_keys(file: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Section -> key -> shape of a `keys_*.txt`."""
    sections: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in require(shared(file)).read_text().splitlines()[1:]:
        if line.startswith("## "):
            section = sections.setdefault(line[3:].split()[0], {})
        elif line:
            key, shape = line.split(" ", 1)
            section[key] = tuple(int(n) for n in re.findall(r"\d+", shape))
    return sections
