"""Matrix products on tensor cores that lose nothing the result can show.

A product of two halves is exact in float32, so tiles meet as they are stored. A float32 tile (a
softmax, a masked feature, a gradient) that meets a stored one is split into halves: the stored one
stays exact, and two or three products do where `input_precision="bf16x6"` would take six.

Two float32 tiles meet as three bfloat16 pieces each (PRECISION "pieces"), in the six products of
"bf16x6". Each tile is split once for all its products, which that would do for every one anew, and
by its bits: the conversions of hardware are slower than arithmetic.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

# What the rest of a float16 number is multiplied with, so that it does not fall below the range.
LIFT = tl.constexpr(2048.0)


@triton.jit
def as_factor(tile, PRECISION: tl.constexpr):
    """A tile as it goes into products: as stored, in float32, or in the pieces of that."""
    if PRECISION == "native":
        found = tile
    elif PRECISION == "pieces":
        found = _pieces(tile.to(tl.float32))
    else:
        found = tile.to(tl.float32)
    return found


@triton.jit
def transposed(factor, PRECISION: tl.constexpr):
    """The transpose of what `as_factor` made."""
    if PRECISION == "pieces":
        found = (tl.trans(factor[0]), tl.trans(factor[1]), tl.trans(factor[2]))
    else:
        found = tl.trans(factor)
    return found


@triton.jit
def _upper_half(x):
    """The bfloat16 numbers that the upper bits of float32 ones are: cut towards zero."""
    return (x.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _lower_half(x):
    """What `_upper_half` cuts off, exactly; NaN where x is infinite."""
    return x - (x.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit
def _pieces(x):
    """Three bfloat16 tiles that add up to x: eight of its 24 bits each."""
    rest = _lower_half(x)
    return _upper_half(x), _upper_half(rest), _upper_half(_lower_half(rest))


@triton.jit
def _product_of_pieces(a, b):
    """Return a b without the three smallest products, which float32 hardly shows."""
    # The smallest first: tensor cores cut what lies below the last bit of the sum.
    found = tl.dot(a[1], b[1])
    found = tl.dot(a[2], b[0], found)
    found = tl.dot(a[0], b[2], found)
    found = tl.dot(a[1], b[0], found)
    found = tl.dot(a[0], b[1], found)
    return tl.dot(a[0], b[0], found)


@triton.jit
def _sum(total, found):
    """Return total + found, or found alone where `total` is None."""
    return found if total is None else total + found


@triton.jit
def stored_product(a, b, total, PRECISION: tl.constexpr):
    """Return a b + total, of two tiles that `as_factor` made; `total` may be None."""
    if PRECISION == "native":
        total = tl.dot(a, b, total)
    elif PRECISION == "pieces":
        total = _sum(total, _product_of_pieces(a, b))
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
    """Return wide stored + total, of what `as_factor` made of a float32 tile and of a stored one.

    Halves keep 22 bits of `wide` (float16) or 16 (bfloat16; all 24 if EXACT), and what the tensor
    cores sum is added to `total` in float32, since they cut sums instead of rounding them.
    """
    if PRECISION == "native":
        total = _sum(total, _split_product(wide, stored, EXACT))
    else:
        total = stored_product(wide, stored, total, PRECISION)
    return total
