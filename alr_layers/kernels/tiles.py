"""What the kernels share: block sizes, strides, and the reasons why tensors cannot be taken.

A program works on one tile of one sample: BLOCK_N of its N = H * W regions against BLOCK_T words
or BLOCK_D channels. Everything here is a pure function of shapes, strides and dtypes.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_CHANNELS = 256
MAX_WORDS = 128
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Precision of tl.dot over float32 operands. Exact for float32 tensors, at the price of running
# beside the tensor cores ("bf16x6" would run on them and keep all 24 bits: to be judged on a GPU).
# Half precision numbers are exact as a sum of two bfloat16, and what they meet keeps 16 bits.
FLOAT32_DOT = "ieee"
HALF_DOT = "bf16x3"

# Channels that meet the words, or one another's Gram tile, in one tl.dot. Chosen with the other
# block sizes so that no kernel spills registers on any of the architectures the tests compile for.
BLOCK_D = 16

# Enough programs to keep every multiprocessor of a large GPU busy several times over. A constant,
# not the device's own number, so that sums are cut the same way, and come out the same, everywhere.
TARGET_PROGRAMS = 1024


def block_words(words: int) -> int:
    """BLOCK_T: the bucket of `words`, so that captions of similar length share one kernel."""
    return max(16, int(triton.next_power_of_2(words)))


def block_regions(words: int) -> int:
    """BLOCK_N of a tile of regions against all words."""
    return {16: 64, 32: 64, 64: 32}.get(block_words(words), 16)


def warps(words: int) -> int:
    """Warps of a program that holds tiles of regions against all words."""
    return 4 if block_words(words) <= 16 else 8


def split_count(tiles: int, programs_per_split: int) -> int:
    """Into how many parts the tiles of a sample are cut, each summed by one program."""
    wanted = triton.cdiv(TARGET_PROGRAMS, max(1, programs_per_split))
    per_split = triton.cdiv(tiles, min(tiles, wanted))
    return int(triton.cdiv(tiles, per_split))


def compute_capability(tensor: Tensor) -> tuple[int, int]:
    """Of the tensor's GPU; (0, 0) under the interpreter, which runs on the CPU."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else (0, 0)


def dot_precision(*tensors: Tensor) -> str:
    """`input_precision` of the dots over these tensors."""
    halves = all(tensor.dtype != torch.float32 for tensor in tensors)
    return HALF_DOT if halves and compute_capability(tensors[0]) >= (8, 0) else FLOAT32_DOT


def is_flat(*tensors: Tensor) -> bool:
    """Whether one stride walks the regions of each of these (B, X, H, W) tensors.

    So it is for contiguous and for channels_last ones and for slices of their channels, and not
    for transposed or cropped grids, which cost a division per region.
    """
    return all(
        tensor.shape[2] == 1 or tensor.stride(2) == tensor.shape[3] * tensor.stride(3)
        for tensor in tensors
    )


def contiguous_like(tensor: Tensor) -> Tensor:
    """An empty contiguous tensor of this shape and dtype, whatever the strides."""
    return tensor.new_empty(tensor.shape)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """The context to launch in: the tensor's own device, not the current one."""
    return torch.cuda.device_of(tensor)


def unsupported(*tensors: Tensor) -> tuple[str, ...]:
    """Why the kernels cannot take these tensors, from metadata alone; empty if they can."""
    reasons: list[str] = []
    devices = sorted({tensor.device.type for tensor in tensors} - {"cuda"})
    if devices and not INTERPRETED:
        reasons.append(f"no CUDA device: tensors are on {', '.join(devices)}")
    if torch.version.hip is not None:
        reasons.append("built for CUDA GPUs and untested on ROCm")
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    wrong = sorted({str(tensor.dtype) for tensor in floating} - {str(dtype) for dtype in DTYPES})
    if wrong:
        reasons.append(f"{', '.join(wrong)} tensors; float32, float16 and bfloat16 are taken")
    if any(tensor.numel() == 0 for tensor in tensors):
        reasons.append("a tensor is empty")
    return tuple(reasons)


def beyond(name: str, size: int, limit: int) -> tuple[str, ...]:
    """The reason for a size over its limit, if it is."""
    return (f"{size} {name}, at most {limit} are taken",) if size > limit else ()


def first_order_only(name: str) -> Callable[..., Any]:
    """The autograd formula of a backward op: it refuses, and names the way out."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"alr_layers::{name} cannot be differentiated: the fused ops are of first order only. "
            'Use backend="reference", or use_backend("reference"), for gradients of gradients.'
        )

    return refuse


@triton.jit
def region_offset(region, strides, width, FLAT: tl.constexpr):
    """Where regions (in row order) lie in a tensor of these four strides."""
    if FLAT:
        return region * strides[3]
    return (region // width) * strides[2] + (region % width) * strides[3]


@triton.jit
def read_tile(base, strides, b, c, n, width, mask, FLAT: tl.constexpr):
    """The tile (c, n) of sample b in float32, 0 where masked."""
    place = base + b * strides[0] + c[:, None] * strides[1]
    place += region_offset(n, strides, width, FLAT)[None, :]
    return tl.load(place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def write_tile(base, strides, b, c, n, width, values, mask, FLAT: tl.constexpr):
    """Store the tile (c, n) of sample b in the tensor's own dtype."""
    place = base + b * strides[0] + c[:, None] * strides[1]
    place += region_offset(n, strides, width, FLAT)[None, :]
    tl.store(place, values, mask=mask)


@triton.jit
def tile_of(c_tile, n_tile, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr):
    """The channels and regions of a tile, int64 before any stride is multiplied."""
    c = (c_tile * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    n = (n_tile * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    return c, n


@triton.jit
def sign(x):
    """The derivative of |x|: 0 at 0, NaN at NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


# TRITON_INTERPRET=1 was set when triton was imported: kernels run on the CPU, for tests.
INTERPRETED = not isinstance(region_offset, triton.JITFunction)
