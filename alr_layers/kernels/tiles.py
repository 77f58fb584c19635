"""What the kernels share: block sizes, access to tiles, and small pieces of mathematics.

A program works on one tile of one sample: BLOCK_N of its N = H * W regions against BLOCK_T words
or BLOCK_D channels. Everything here is a pure function of shapes, strides and dtypes.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# How tiles are multiplied: halves as they are stored on tensor cores, float32 numbers in pieces on
# tensor cores, or everything in exact float32 arithmetic beside them.
NATIVE, ON_CORES, IEEE = "native", "on cores", "ieee"
# Of the second, the PRECISION with which each tile is split once for all its products.
PIECES = "pieces"

# Channels up to which a kernel takes all at once. The tiles below are those that issue the fewest
# instructions, as `python -m benchmarks.ahead` counts them, among those that spill no registers.
SMALL = 64
# Words up to which the sums over regions of E1-E3's backward pass fit in registers.
FEW_WORDS = 32

# Enough programs to keep every multiprocessor of a large GPU busy several times over. A constant,
# not the device's own number, so that sums are cut the same way, and come out the same, everywhere.
TARGET_PROGRAMS = 1024


def block_words(words: int) -> int:
    """BLOCK_T: the bucket of `words`, so that captions of similar length share one kernel."""
    return max(16, int(triton.next_power_of_2(words)))


class Tile(NamedTuple):
    """What one program works on at a time, with how many warps, and the PRECISION of products."""

    block_n: int
    block_d: int
    warps: int
    precision: str


def channels_at_once(dim: int) -> int:
    """BLOCK_D that holds all `dim` channels."""
    return max(16, int(triton.next_power_of_2(dim)))


def _layout_pieces_tile(at_once: int, block_t: int, forward: bool) -> Tile:
    """Of E1-E3 in float32 on tensor cores."""
    if block_t <= FEW_WORDS and at_once <= SMALL:
        few = at_once <= 32
        if forward:
            return Tile(128 if few else 64, at_once, 4, PIECES)
        return Tile(32 if few or block_t == 32 else 64, at_once, 2 if few else 4, PIECES)
    block_d = min(at_once, 32 if forward and block_t <= 64 else 16)
    return Tile(64 if forward or block_t <= 64 else 32, block_d, 4, PIECES)


def layout_tile(dim: int, words: int, arithmetic: str, *, forward: bool) -> Tile:
    """Of E1-E3: all channels at once where that spills no registers."""
    block_t = block_words(words)
    at_once = channels_at_once(dim)
    if arithmetic == ON_CORES:
        return _layout_pieces_tile(at_once, block_t, forward)
    if block_t <= FEW_WORDS:
        whole = arithmetic == NATIVE and at_once <= SMALL
        return Tile(64, at_once if whole else 16, 4, exact(arithmetic))
    return Tile(32 if block_t == 64 else 16, 16, 8, exact(arithmetic))


def gram_tile(dim: int, arithmetic: str, capability: tuple[int, int]) -> Tile:
    """Of the forward pass of E10-E11: BLOCK_D channels of the Gram matrix by as many."""
    block_d = min(SMALL, channels_at_once(dim))
    # What fits in the registers of 9.0 spills on 8.0.
    roomy = capability >= (9, 0)
    if arithmetic == NATIVE:
        return Tile(32 if roomy else 16, block_d, 2 if block_d <= 32 else 4, NATIVE)
    if block_d <= 32:
        return Tile(64, block_d, 4, IEEE)
    if roomy and arithmetic == ON_CORES:
        return Tile(32, block_d, 4, "bf16x6")
    return Tile(16, block_d, 4, IEEE)


def difference_tile(dim: int, words: int, arithmetic: str) -> Tile:
    """Of the backward pass of E10-E11."""
    at_once = 32 if arithmetic == IEEE else SMALL
    block_d = channels_at_once(dim) if dim <= at_once else 16
    small = words <= 32 and (arithmetic == NATIVE or block_d <= 32)
    return Tile(64 if small else 32, block_d, 4, exact(arithmetic))


def split_count(tiles: int, programs_per_split: int) -> int:
    """Into how many parts the tiles of a sample are cut, each summed by one program."""
    wanted = triton.cdiv(TARGET_PROGRAMS, max(1, programs_per_split))
    per_split = triton.cdiv(tiles, min(tiles, wanted))
    return int(triton.cdiv(tiles, per_split))


def compute_capability(tensor: Tensor) -> tuple[int, int]:
    """Of the tensor's GPU; (0, 0) under the interpreter, which runs on the CPU."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else (0, 0)


def arithmetic(*tensors: Tensor) -> str:
    """How products over these tensors can be computed: NATIVE, ON_CORES or IEEE."""
    if compute_capability(tensors[0]) < (8, 0):
        return IEEE
    (dtype, *others) = {tensor.dtype for tensor in tensors}
    return ON_CORES if others or dtype == torch.float32 else NATIVE


def exact(arithmetic: str) -> str:
    """The PRECISION that leaves float32 numbers whole."""
    return NATIVE if arithmetic == NATIVE else IEEE


def is_flat(*tensors: Tensor) -> bool:
    """Whether one stride walks the regions of each of these (B, X, H, W) tensors.

    So it is for contiguous and for channels_last ones and for slices of their channels, and not
    for transposed or cropped grids, which cost a division per region.
    """
    return all(
        tensor.shape[2] == 1 or tensor.stride(2) == tensor.shape[3] * tensor.stride(3)
        for tensor in tensors
    )


def with_strides(**tensors: Tensor) -> dict[str, Any]:
    """What a kernel takes of each tensor, by name: `x` and `x_strides`."""
    return {
        key: value
        for name, tensor in tensors.items()
        for key, value in ((name, tensor), (f"{name}_strides", tensor.stride()))
    }


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """The context to launch in: the tensor's own device, not the current one."""
    return torch.cuda.device_of(tensor)


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
def place_of(base, strides, b, c, n, width, FLAT: tl.constexpr):
    """Where the tile (c, n) of sample b of a (B, X, H, W) tensor lies: channels by regions."""
    place = base + b * strides[0] + c[:, None] * strides[1]
    return place + region_offset(n, strides, width, FLAT)[None, :]


@triton.jit
def read_tile(base, strides, b, c, n, width, mask, FLAT: tl.constexpr):
    """The tile (c, n) of sample b in float32, 0 where masked."""
    place = place_of(base, strides, b, c, n, width, FLAT)
    return tl.load(place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def write_tile(base, strides, b, c, n, width, values, mask, FLAT: tl.constexpr):
    """Store the tile (c, n) of sample b in the tensor's own dtype."""
    tl.store(place_of(base, strides, b, c, n, width, FLAT), values, mask=mask)


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


@triton.jit
def easy_part(values, residual, gamma):
    """`values` where R < gamma, else 0. A NaN residual, neither below nor above, keeps them."""
    return tl.where(residual >= gamma, 0.0, values)


@triton.jit
def hard_part(values, residual, gamma):
    """`values` where R >= gamma, else 0. A NaN residual, neither below nor above, keeps them."""
    return tl.where(residual < gamma, 0.0, values)


@triton.jit
def norm_slope(grad, norm):
    """What x is multiplied with in d‖x‖ = x / ‖x‖ dx: grad / norm, and 0 at x = 0 (our reading)."""
    return tl.where(norm == 0, 0.0, grad / tl.where(norm == 0, 1.0, norm))
