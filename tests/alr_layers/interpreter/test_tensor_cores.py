"""The error rule must hold on tensor cores too: what they compute is emulated."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from alr_layers.kernels.products import as_factor, stored_product
from tests.alr_layers import tensor_cores
from tests.alr_layers.kernel_support import assert_parity, inputs

WITH_PRODUCTS = ("layout_context", "masked_difference")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# (B, D, T, H, W): channels at once, odd sizes, more channels and words than at once, many regions.
SHAPES = ((2, 24, 7, 5, 9), (1, 5, 18, 17, 17), (2, 70, 33, 8, 1), (1, 48, 18, 24, 24))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", WITH_PRODUCTS)
def test_values_and_gradients(op, shape, dtype):
    with tensor_cores.emulated():
        assert_parity(op, *inputs(op, shape, DTYPES[dtype]))


def test_the_largest_sizes():
    with tensor_cores.emulated():
        assert_parity(
            "layout_context", *inputs("layout_context", (1, 256, 128, 3, 11), torch.float32)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["layout_context", "masked_difference"])
@pytest.mark.parametrize("factor", [2.0**-12, 2.0**6])
def test_small_and_large_numbers(op, dtype, factor):
    tensors, rest = inputs(op, (2, 24, 7, 5, 9), DTYPES[dtype])
    tensors[0] = tensors[0] * factor
    if op == "masked_difference":
        tensors[1] = tensors[1] * factor
    with tensor_cores.emulated():
        assert_parity(op, tensors, rest)


def test_sums_are_cut_towards_zero():
    """1 + 2^-24 sixteen times over: rounding to nearest would keep 1 + 15 * 2^-24 or more."""
    a = np.full((1, 16), 2.0**-12, np.float32)
    b = np.full((16, 1), 2.0**-12, np.float32)
    assert tensor_cores.multiply(a, b, np.ones((1, 1), np.float32)) == 1
    assert tensor_cores.multiply(a, b, np.zeros((1, 1), np.float32)) == 2.0**-20


@pytest.mark.parametrize(("precision", "bits"), [("bf16x3", 15), ("bf16x6", 21)])
def test_what_the_pieces_keep(precision, bits):
    """Measured against float64: x3 drops the product of the middle pieces, x6 less than 2^-21."""
    generator = np.random.default_rng(0)
    a = generator.standard_normal((32, 16)).astype(np.float32)
    b = generator.standard_normal((16, 32)).astype(np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    left, right = tensor_cores.pieces(a), tensor_cores.pieces(b)
    found = np.zeros((32, 32), np.float32)
    for i, j in tensor_cores.PRODUCTS[precision]:
        found = tensor_cores.multiply(left[i], right[j], found)
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 2.0 ** -(bits + 4) < error < 2.0**-bits


@triton.jit
def _multiply(a, b, out, SIZE: tl.constexpr):
    """Write a b of two square matrices, in pieces."""
    place = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    left = as_factor(tl.load(a + place), "pieces")
    right = as_factor(tl.load(b + place), "pieces")
    tl.store(out + place, stored_product(left, right, None, "pieces"))


def in_pieces(a, b):
    found = torch.empty_like(a)
    with tensor_cores.emulated():
        _multiply[1,](a, b, found, a.shape[0])
    return found


@pytest.mark.parametrize("scale", [1.0, 2.0**-60, 2.0**126])
def test_pieces_add_up_to_the_number(scale):
    torch.manual_seed(0)
    a = torch.rand(16, 16).add(1) * scale * torch.randn(16, 16).sign()
    assert torch.equal(in_pieces(a, torch.eye(16)), a)
    assert torch.equal(in_pieces(torch.eye(16), a), a)


def test_a_product_of_pieces_is_as_exact_as_of_float32():
    torch.manual_seed(0)
    a, b = torch.randn(2, 32, 32)
    exact = a.double() @ b.double()
    error = (in_pieces(a, b) - exact).abs().max() / exact.abs().max()
    assert error < 2.0**-21


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_visible_in_pieces(poison):
    a = torch.ones(16, 16)
    a[3, 5] = poison
    assert not in_pieces(a, torch.ones(16, 16))[3].isfinite().any()
