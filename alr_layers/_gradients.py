"""Gradient norms of scalar losses at given tensors, and their agreement over ranks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Below this ratio to the host's gradient a term has none: scaling would blow up rounding errors.
NEGLIGIBLE = 1e-12

# Under float16 the gradient of a scaled loss is measured and the norm divided by the scale again:
# powers of two, tried until the largest entry lies well inside the range of float16.
HALF_START, HALF_STEP, HALF_TRIALS = 2.0**12, 2.0**12, 4
HALF_LOW, HALF_HIGH = 1e-2, 3e4


def norm_at(name: str, loss: Tensor, at: tuple[Tensor, ...], *, required: bool = False) -> Tensor:
    """The norm of a loss's gradient at `at`; 0 where it need not reach it.

    Raises:
        ValueError: it does not reach `at`, or nothing does.
    """
    if not all(tensor.requires_grad for tensor in at):
        raise ValueError(
            "`at` requires no gradient (a frozen generator, or a detached copy): hand over h"
            " itself; where nothing of the host learns, add the terms with weights of your own"
        )
    norm = gradient_norm(loss, at) if loss.requires_grad else None
    if norm is not None:
        return norm
    if not required:
        return torch.zeros((), device=at[0].device)
    if name == "host_loss":
        cure = (
            "hand over the very tensor that the generator goes on with; where that is out of reach"
            " (DataParallel, a compiled generator, DDP with find_unused_parameters), a weight of"
            " the layer that makes h"
        )
    else:
        cure = (
            "hand over the h that the refinement was given, or for a term that h does not enter a"
            f" tensor that both reach, anchors={{{name!r}: head.weight}}"
        )
    raise ValueError(f"the gradient of {name} does not reach `at`: {cure}")


def gradient_norm(loss: Tensor, at: Sequence[Tensor]) -> Tensor | None:
    """‖∂ loss / ∂ at‖ over all tensors of `at` together, a scalar; None if it reaches none.

    The graph is kept, and nothing is accumulated in `.grad`.
    """
    if torch.float16 not in {loss.dtype, *(tensor.dtype for tensor in at)}:
        gradients = _gradients(loss, at)
        return _norm(gradients) if gradients else None
    best, scale = None, HALF_START
    for _ in range(HALF_TRIALS):
        gradients = _gradients(scale * loss.float(), at)
        if not gradients:
            return None
        norm = _norm(gradients) / scale
        peak = float(torch.stack([gradient.abs().amax() for gradient in gradients]).amax())
        if best is None or 0 < peak < math.inf:
            best = norm
        if HALF_LOW <= peak <= HALF_HIGH:
            break
        scale = scale * HALF_STEP if peak < HALF_LOW else scale / HALF_STEP
    return best


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all entries; divided by the largest first, or tiny ones would square to 0."""
    peak = torch.stack([gradient.abs().amax() for gradient in gradients]).amax()
    unit = torch.where((peak > 0) & peak.isfinite(), peak, 1)
    norms = [torch.linalg.vector_norm(gradient / unit) for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms)) * unit
    return norm


def _gradients(loss: Tensor, at: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of `loss` at those tensors of `at` that it reaches, in float32 at least."""
    try:
        found = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "donated" not in str(error):
            raise
        raise RuntimeError(
            "measuring retains the graph of a compiled host: `import torch._functorch.config` and"
            " set torch._functorch.config.donated_buffer = False before the host is first run"
        ) from error
    return [
        gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        for gradient in found
        if gradient is not None
    ]


def obstacle(host: float, norm: float) -> str:
    """Why no ratio of a term's gradient norm to the host's can be taken; empty if it can."""
    if not (math.isfinite(host) and math.isfinite(norm)):
        return "the gradient of the host or of the term is not finite"
    if not host:
        return "the host's gradient is zero"
    if norm <= NEGLIGIBLE * host:
        return "its gradient is zero, or next to it (for alr: one word, or Θ equal to Θ*)"
    return ""


def root_mean_square_over_ranks(values: Tensor) -> Tensor:
    """The root of the mean over ranks of the squares; without ranks the values themselves.

    For gradient norms of equal parts of a batch, ratios are then those of the whole batch.
    """
    # Reached as an attribute: `torch.distributed` is there with torch wherever it is available.
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    squares = values.double().square()
    torch.distributed.all_reduce(squares)
    return (squares / torch.distributed.get_world_size()).sqrt()
