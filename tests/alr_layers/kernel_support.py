"""One table of the fused ops, and the rule they are held to, on any device."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from alr_layers.kernels import reference
from alr_layers.kernels.dispatch import implementation
from alr_layers.kernels.requirements import OPS

FUSED = [op for op, entry in OPS.items() if entry.module]
ARRANGEMENTS = ("contiguous", "channels_last", "transposed", "expanded", "sliced")
# (B, D, T, H, W): nothing divides a block, T > D, one of everything, one region wide, many words.
SHAPES = ((2, 24, 7, 5, 9), (1, 5, 18, 17, 17), (3, 1, 1, 1, 1), (2, 70, 33, 8, 1))


def fused(op: str):
    return implementation(op, "fused")


def arranged(values: Tensor, arrangement: str) -> Tensor:
    """The same numbers (for "expanded", those of the first sample) with other strides."""
    if arrangement == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if arrangement == "transposed":
        return values.transpose(2, 3).contiguous().transpose(2, 3)
    if arrangement == "expanded":
        return values[:1].expand_as(values)
    if arrangement == "sliced":
        b, c, h, w = values.shape
        larger = values.new_full((b, c + 2, h + 3, w + 1), torch.nan)
        larger[:, 1:-1, 2:-1, 1:] = values
        return larger[:, 1:-1, 2:-1, 1:]
    return values.contiguous()


def inputs(op, shape, dtype, device="cpu", arrangement="contiguous", seed=0):
    """(differentiable tensors, the call's other arguments)."""
    torch.manual_seed(seed)
    b, d, t, h, w = shape
    k = max(d, t)

    def grid(channels):
        return torch.randn(b, channels, h, w)

    def layout():
        # Rounded: tied words occur. Sharpened: easy and hard residuals occur.
        return (grid(t).mul(2).softmax(1) * 64).round() / 64

    if op in ("semantic_similarity", "layout_context"):
        words = torch.randn(b, d, t) / d**0.5
        tensors = [arranged(grid(d).to(device, dtype), arrangement), words.to(device, dtype)]
        if arrangement != "contiguous":
            tensors[1] = tensors[1].transpose(1, 2).contiguous().transpose(1, 2)
        return tensors, (torch.randint(1, t + 1, (b,)).to(device),)
    weights = [grid(k).sigmoid().mul(64).round() / 64 for _ in "ab"]
    residuals = reference.split_residual(layout(), layout(), 0.1)
    tensors, rest = {
        "gated_residual": ([layout(), layout(), grid(d)], (0.1,)),
        "closing_reduction": ([*residuals, *weights], ()),
        "layout_closing_reduction": ([layout(), layout(), *weights], (0.1,)),
        "masked_difference": ([grid(d), grid(d), layout(), layout()], ("soft",)),
    }[op]
    return [arranged(x.to(device, dtype), arrangement) for x in tensors], rest


def run(function, tensors, rest, upstream=None):
    """(outputs, upstream gradients, gradients of the tensors)."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    outputs = function(*leaves, *rest)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    if upstream is None:
        generator = torch.Generator(outputs[0].device).manual_seed(1)
        upstream = [
            torch.empty(x.shape, device=x.device, dtype=x.dtype).normal_(generator=generator)
            for x in outputs
        ]
    grads = torch.autograd.grad(outputs, leaves, upstream, allow_unused=True)
    return outputs, upstream, grads


@contextmanager
def poisoned() -> Iterator[None]:
    """Allocations hold NaN, so that what a kernel leaves unwritten shows."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty

    def spoil(tensor):
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    with (
        mock.patch.object(torch, "empty", lambda *a, **k: spoil(empty(*a, **k))),
        mock.patch.object(torch, "empty_like", lambda *a, **k: spoil(empty_like(*a, **k))),
        mock.patch.object(Tensor, "new_empty", lambda *a, **k: spoil(new_empty(*a, **k))),
    ):
        yield


def assert_no_worse(name: str, got: Tensor, plain: Tensor, exact: Tensor) -> None:
    """Error <= 2 x the reference's own in this dtype + a few float32 roundings, max and RMS."""
    assert got.dtype == plain.dtype, name
    assert got.shape == plain.shape, name
    mine, its = ((x.detach().double() - exact).abs() for x in (got, plain))
    scale = exact.detach().abs()
    floor = 4 * torch.finfo(torch.float32).eps
    assert mine.max() <= 2 * its.max() + floor * scale.max(), (name, mine.max(), its.max())
    rms = [x.square().mean().sqrt() for x in (mine, its, scale)]
    assert rms[0] <= 2 * rms[1] + floor * rms[2], (name, rms)


def assert_parity(op, tensors, rest) -> None:
    """Values and gradients of `op`, and that it leaves its inputs alone and repeats itself."""
    before = [tensor.clone() for tensor in tensors]
    with poisoned():
        outputs, upstream, grads = run(fused(op), tensors, rest)
    again, _, grads_again = run(fused(op), tensors, rest, upstream)
    plain, _, plain_grads = run(getattr(reference, op), tensors, rest, upstream)
    wide = [tensor.double() for tensor in tensors]
    exact, _, exact_grads = run(getattr(reference, op), wide, rest, [x.double() for x in upstream])
    columns = (
        (*outputs, *grads),
        (*plain, *plain_grads),
        (*exact, *exact_grads),
        (*again, *grads_again),
    )
    for index, (x, y, z, r) in enumerate(zip(*columns, strict=True)):
        assert (x is None) == (y is None), f"{op} {index}"
        if x is not None:
            assert_no_worse(f"{op} {index}", x, y, z)
            assert torch.equal(x, r), f"{op} {index} differs from run to run"
    assert all(torch.equal(x, y) for x, y in zip(before, tensors, strict=True)), "input changed"
