"""Matrix products on tensor cores that lose nothing the result can show.

A product of two halves is exact in float32, so tiles meet as they are stored. A float32 tile (a
softmax, a masked feature, a gradient) that meets a stored one is split into halves: the stored one
stays exact, and two or three products do where `input_precision="bf16x6"` would take six.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

# What the rest of a float16 number is multiplied with, so that it does not fall below the range.
LIFT = tl.constexpr(2048.0)


@triton.jit
def as_factor(tile, PRECISION: tl.constexpr):
    """A tile as it goes into products: as stored, or in float32."""
    return tile if PRECISION == "native" else tile.to(tl.float32)


@triton.jit
def stored_product(a, b, total, PRECISION: tl.constexpr):
    """Return a b + total, of two tiles that `as_factor` made."""
    if PRECISION == "native":
        total = tl.dot(a, b, total)
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def _split_product(wide, stored, EXACT: tl.constexpr):
    """Multiply wide by stored, with `wide` as the sum of two halves, or three."""
    high = wide.to(stored.dtype)
    rest = wide - high.to(tl.float32)
    if stored.dtype == tl.float16:
        found = tl.dot((rest * LIFT).to(tl.float16), stored) * (1 / LIFT)
    elif EXACT:
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        found = tl.dot(middle, stored, tl.dot(low, stored))
    else:
        found = tl.dot(rest.to(tl.bfloat16), stored)
    return tl.dot(high, stored, found)


@triton.jit
def wide_product(wide, stored, total, PRECISION: tl.constexpr, EXACT: tl.constexpr):
    """Return wide stored + total, of a float32 tile and one that `as_factor` made.

    Halves keep 22 bits of `wide` (float16) or 16 (bfloat16; all 24 if EXACT), and what the tensor
    cores sum is added to `total` in float32, since they cut sums instead of rounding them.
    """
    if PRECISION == "native":
        total += _split_product(wide, stored, EXACT)
    else:
        total = tl.dot(wide, stored, total, input_precision=PRECISION)
    return total
