"""Tensor cores, emulated under Triton's interpreter, which knows exact float32 products only.

Modelled after what is known of the hardware and of Triton's lowering, each at its worst:

- A product of halves is exact. Sixteen of them and the accumulator are aligned to the largest and
  cut to 24 bits, added, and cut to float32: towards zero, not to nearest (Fasi, Higham, Mikaitis,
  Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021).
- `input_precision="bf16xN"` splits each float32 operand into three bfloat16 pieces, sums the N
  largest of their nine products, smallest first, and adds the accumulator in float32.
- A float32 number becomes the nearest bfloat16 one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from alr_layers.kernels import tiles

CHUNK = 16
SIGNIFICANT_BITS = 24
HIGH, MIDDLE, LOW = 0, 1, 2
# The pieces (of a, of b) that are multiplied, smallest products first.
PRODUCTS = {
    "bf16x3": ((MIDDLE, HIGH), (HIGH, MIDDLE), (HIGH, HIGH)),
    "bf16x6": (
        *((MIDDLE, MIDDLE), (LOW, HIGH), (HIGH, LOW)),
        *((MIDDLE, HIGH), (HIGH, MIDDLE), (HIGH, HIGH)),
    ),
}


def cut(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Multiples of `unit`, towards zero; NaN and infinity stay."""
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(values), np.trunc(values / unit) * unit, values)


def unit_of(largest: np.ndarray) -> np.ndarray:
    """The value of the last of 24 bits of a number of that size."""
    usable = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    return np.exp2(np.floor(np.log2(usable)) - (SIGNIFICANT_BITS - 1))


def multiply(a: np.ndarray, b: np.ndarray, accumulator: np.ndarray) -> np.ndarray:
    """a @ b + accumulator as the tensor cores add: `a` and `b` hold exact halves."""
    total = accumulator.astype(np.float64)
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        for start in range(0, a.shape[1], CHUNK):
            terms = a[:, start : start + CHUNK, None] * b[None, start : start + CHUNK, :]
            terms = np.concatenate([terms, total[:, None, :]], 1)
            total = cut(terms, unit_of(np.abs(terms).max(1, keepdims=True))).sum(1)
            total = cut(total, unit_of(np.abs(total)))
        return total.astype(np.float32)


def pieces(values: np.ndarray) -> list[np.ndarray]:
    """Three bfloat16 numbers, as float32, whose sum is the float32 number (up to its last bits)."""
    found = []
    rest = torch.from_numpy(np.ascontiguousarray(values))
    for _ in range(3):
        piece = rest.bfloat16().float()
        found.append(piece.numpy())
        rest = rest - piece
    return found


def decoded(handle: interpreter.TensorHandle) -> np.ndarray:
    """The numbers of a handle as float32; the interpreter keeps bfloat16 as its bits."""
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data.astype(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16 numbers."""
    return torch.from_numpy(np.array(values)).bfloat16().view(torch.uint16).numpy()


_cast = interpreter.InterpreterBuilder.cast_impl


def cast(self, source, dtype):
    """What `InterpreterBuilder.cast_impl` should be: it cuts float32 to bfloat16 towards zero."""
    if (source.dtype.scalar, dtype.scalar) == (tl.float32, tl.bfloat16):
        return interpreter.TensorHandle(rounded(source.data), tl.bfloat16)
    return _cast(self, source, dtype)


def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    """What `InterpreterBuilder.create_dot` would be on a GPU of compute capability 8.0 or later."""
    precision = str(input_precision).rsplit(".", 1)[-1].lower()
    left, right = decoded(a), decoded(b)
    if a.dtype.primitive_bitwidth == 16:
        result = multiply(left, right, d.data)
    elif precision == "ieee":
        result = left @ right + d.data
    else:
        left, right = pieces(left), pieces(right)
        result = np.zeros_like(d.data)
        for index, (i, j) in enumerate(PRODUCTS[precision]):
            if (i, j) == (HIGH, HIGH) and index:
                # Of infinity, the smaller pieces are NaN.
                result = np.where(np.isnan(result), np.float32(0), result)
            result = multiply(left[i], right[j], result)
        result = result + d.data
    return interpreter.TensorHandle(result.astype(np.float32), d.dtype.scalar)


@contextmanager
def emulated() -> Iterator[None]:
    """Within the block, kernels take the path of a GPU with tensor cores."""
    builder = interpreter.interpreter_builder
    options = replace(builder.options, allowed_dot_input_precisions=("ieee", *PRODUCTS))
    with (
        mock.patch.object(interpreter.InterpreterBuilder, "create_dot", dot),
        mock.patch.object(interpreter.InterpreterBuilder, "cast_impl", cast),
        mock.patch.object(builder, "options", options),
        mock.patch.object(tiles, "compute_capability", lambda tensor: (9, 0)),
    ):
        yield
