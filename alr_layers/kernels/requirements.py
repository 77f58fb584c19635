"""The table of ops, and the reasons why one cannot run fused: from metadata, without Triton.

Everything here is answered without importing Triton, which costs half a second that a program on a
CPU need not spend, and without waiting for a device.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor

from alr_layers.kernels import reference

# The lowest the kernels are tested with. 3.2 fails at tuples of strides; 3.3, 3.4 lack bf16x3.
OLDEST_TRITON = (3, 6)
MAX_CHANNELS = 256
MAX_WORDS = 128
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Op:
    """What is known of one op beside its reference of the same name.

    Attributes:
        module: the file of alr_layers.kernels that holds its fused form, a function of the
            reference's name and signature; None: it has no such form.
        channels: which argument has D in dimension 1, where D is bounded.
        words: (which argument, dimension) has the T words, where T is bounded.
    """

    module: str | None
    channels: int | None = None
    words: tuple[int, int] | None = None


OPS = {
    "semantic_similarity": Op("layout", channels=0, words=(1, 2)),
    "text_vision_matrix": Op(None),
    "layout_context": Op("layout", channels=0, words=(1, 2)),
    "gated_residual": Op("residual"),
    "closing_reduction": Op("closing"),
    "layout_closing_reduction": Op("closing"),
    "masked_difference": Op("masked_gram", channels=0, words=(2, 1)),
}


def arguments(op: str) -> tuple[str, ...]:
    """The names of what `op` is called with, in order."""
    return tuple(signature(getattr(reference, op)).parameters)


def _installed_triton() -> str | None:
    """The version of Triton as its source states it, "unknown" if it does not; None without it."""
    found = find_spec("triton")
    if found is None:
        return None
    text = Path(found.origin).read_text(encoding="utf-8") if found.origin else ""
    version = re.search(r"^__version__ = ['\"]([^'\"]+)", text, re.MULTILINE)
    return version[1] if version else "unknown"


TRITON = _installed_triton()
# Triton then runs kernels on the CPU, for tests. It reads this when it is imported.
_interpret = os.environ.get("TRITON_INTERPRET", "0")
INTERPRETED = _interpret.lower() in ("1", "true", "on", "yes", "y")


def triton_obstacle(installed: str | None) -> str | None:
    """Why this version of Triton cannot run the kernels, and the remedy; None if it can."""
    oldest = ".".join(map(str, OLDEST_TRITON))
    if installed is None:
        return "triton is not installed (pip install triton)"
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_TRITON:
        return f"triton {installed} is installed, {oldest} or newer is needed (update torch)"
    return None


def _beyond(name: str, size: int, limit: int) -> Iterator[str]:
    if size > limit:
        yield f"{size} {name}, at most {limit} are taken"


def _of_tensors(tensors: tuple[Tensor, ...]) -> Iterator[str]:
    devices = sorted({tensor.device.type for tensor in tensors} - {"cuda"})
    if devices and not (INTERPRETED and devices == ["cpu"]):
        yield f"no CUDA device: tensors are on {', '.join(devices)}"
    if torch.version.hip is not None:
        yield "built for CUDA GPUs and untested on ROCm"
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    wrong = sorted({str(tensor.dtype) for tensor in floating} - {str(dtype) for dtype in DTYPES})
    if wrong:
        yield f"{', '.join(wrong)} tensors; float32, float16 and bfloat16 are taken"
    if any(tensor.numel() == 0 for tensor in tensors):
        yield "a tensor is empty"


def _of_sizes(entry: Op, tensors: tuple[Tensor, ...]) -> Iterator[str]:
    if entry.channels is not None and len(tensors) > entry.channels:
        yield from _beyond("channels", tensors[entry.channels].shape[1], MAX_CHANNELS)
    if entry.words is not None and len(tensors) > entry.words[0]:
        index, dim = entry.words
        yield from _beyond("words", tensors[index].shape[dim], MAX_WORDS)


def obstacles(op: str, *tensors: Tensor) -> tuple[str, ...]:
    """Every reason why `op` cannot run fused on these tensors; empty if it can.

    Args:
        op: a name in `OPS`.
        tensors: the tensors the op would be called with; without them the general reasons count.
    """
    entry = OPS[op]
    reasons = [] if (reason := triton_obstacle(TRITON)) is None else [reason]
    if entry.module is None:
        reasons.append("this op has no fused kernels in this version")
    return *reasons, *_of_tensors(tensors), *_of_sizes(entry, tensors)
