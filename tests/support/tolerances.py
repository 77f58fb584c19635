"""When is a result right: measured against a float64 oracle, never by a wished-for constant."""

import torch
from torch import Tensor


def errors(actual: Tensor, exact: Tensor) -> tuple[float, float]:
    """(largest absolute error, root mean square error relative to that of the exact values)."""
    difference = actual.double() - exact.double()
    scale = exact.double().square().mean().sqrt().clamp_min(1e-30)
    return difference.abs().max().item(), (difference.square().mean().sqrt() / scale).item()


def assert_no_worse(actual: Tensor, reference: Tensor, exact: Tensor, factor: float = 2.0) -> None:
    """`actual` errs at most `factor` times as much as `reference`, and a rounding of its dtype."""
    rounding = torch.finfo(actual.dtype).eps
    floors = (rounding * exact.abs().max().item(), rounding)
    measured = zip(errors(actual, exact), errors(reference, exact), floors, strict=True)
    for kind, (own, allowed, floor) in zip(("max abs", "relative rms"), measured, strict=True):
        limit = factor * allowed + floor
        assert own <= limit, f"{kind} error {own:.3e} > {limit:.3e} ({factor} x the reference's)"


def assert_exact(actual: Tensor, exact: Tensor, roundings: float = 64) -> None:
    """Equal up to a few roundings of the dtype of `actual`, on the scale of the largest entry."""
    assert actual.shape == exact.shape
    limit = roundings * torch.finfo(actual.dtype).eps * max(1.0, exact.abs().max().item())
    largest, _ = errors(actual, exact)
    assert largest <= limit, f"off by {largest:.3e}, at most {limit:.3e} expected"
