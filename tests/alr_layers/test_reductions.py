"""The reductions equal the plain ops they stand for, in value and both derivatives."""

import pytest
import torch

from alr_layers.kernels import reductions

PLAIN = {
    "sum_of_squares": lambda x: x.square().flatten(1).sum(1),
    "highest": lambda x: x.flatten(1).amax(1),
    "lowest": lambda x: x.flatten(1).amin(1),
}


def derivatives(function, values):
    x = values.clone().requires_grad_()
    out = function(x)
    (first,) = torch.autograd.grad((out * torch.arange(1.0, 3.0)).sum(), x, create_graph=True)
    second = torch.zeros_like(x)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.square().sum(), x, allow_unused=True)
    return out, first, torch.zeros_like(x) if second is None else second


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("kind", ["random", "ties", "zeros", "permuted"])
def test_equals_the_plain_ops(name, kind):
    values = torch.randn(2, 3, 4, 5)
    if kind == "ties":
        values = values.round()
    if kind == "zeros":
        values = torch.zeros_like(values)
    if kind == "permuted":
        values = values.permute(0, 2, 3, 1)
    ours, theirs = (derivatives(f, values) for f in (getattr(reductions, name), PLAIN[name]))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_come_out(name, bad):
    values = torch.randn(2, 3, 4)
    values[1, 2, 3] = -bad if name == "lowest" else bad
    result = getattr(reductions, name)(values)
    torch.testing.assert_close(result, PLAIN[name](values), equal_nan=True)


@pytest.mark.parametrize("name", PLAIN)
def test_gradcheck(name):
    values = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(getattr(reductions, name), values)
    assert torch.autograd.gradgradcheck(getattr(reductions, name), values)
