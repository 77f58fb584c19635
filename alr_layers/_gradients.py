"""Gradient norms of scalar losses at given tensors, and their agreement over ranks."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alr_layers._stages import Stage

# Below this ratio to the host's gradient a term has none: scaling would blow up rounding errors.
NEGLIGIBLE = 1e-12

# Under float16 the gradient of a scaled loss is measured and the norm divided by the scale again:
# powers of two, tried until the largest entry lies well inside the range of float16.
HALF_START, HALF_STEP, HALF_TRIALS = 2.0**12, 2.0**12, 4
HALF_LOW, HALF_HIGH = 1e-2, 3e4


def norms_at(
    name: str, loss: Tensor, places: Sequence[tuple[Tensor, ...]], *, required: bool = False
) -> list[Tensor]:
    """The norms of a loss's gradient at each of `places`, from one backward pass.

    0 where the gradient need not reach a place.

    Raises:
        ValueError: it does not reach a place that it must, or nothing does.
    """
    if not all(tensor.requires_grad for place in places for tensor in place):
        raise ValueError(
            "`at` requires no gradient (a frozen generator, or a detached copy): hand over h"
            " itself; where nothing of the host learns, add the terms with weights of your own"
        )
    norms = gradient_norms(loss, places) if loss.requires_grad else [None] * len(places)
    if required and any(norm is None for norm in norms):
        raise ValueError(_unreached(name))
    return [
        torch.zeros((), device=place[0].device) if norm is None else norm
        for norm, place in zip(norms, places, strict=True)
    ]


def norms_beside(
    host_loss: Tensor, stages: Sequence[Stage], names: set[str], shares: Mapping[str, float]
) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """(host's norm, term's norm) at the term's place by name, per stage; "host" at `at`.

    The host's loss is the dear one: a single backward pass serves all stages and anchors.

    Args:
        host_loss: the host's whole loss.
        stages: their terms and places.
        names: the terms to measure.
        shares: a term with a share must reach its place.

    Raises:
        ValueError: a gradient does not reach its place.
    """
    # In the order of the terms, which is that of all ranks: that of a set is not.
    places = [
        {"host": stage.at} | {name: stage.place(name) for name in stage.terms if name in names}
        for stage in stages
    ]
    distinct = {_key(place): place for of_stage in places for place in of_stage.values()}
    norms = norms_at("host_loss", host_loss, list(distinct.values()), required=True)
    host = dict(zip(distinct, norms, strict=True))
    found = []
    for stage, of_stage in zip(stages, places, strict=True):
        pairs = {"host": (host[_key(stage.at)],) * 2}
        for name, place in list(of_stage.items())[1:]:
            required = bool(shares.get(name))
            (norm,) = norms_at(name, stage.terms[name], [place], required=required)
            pairs[name] = host[_key(place)], norm
        found.append(pairs)
    return found


def _key(place: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Tensors are equal where their values are: a place is known by which tensors it holds."""
    return tuple(map(id, place))


def _unreached(name: str) -> str:
    """What is wrong where the gradient of `name` does not reach a place, and the remedy."""
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
    return f"the gradient of {name} does not reach `at`: {cure}"


def gradient_norms(loss: Tensor, places: Sequence[tuple[Tensor, ...]]) -> list[Tensor | None]:
    """‖∂ loss / ∂ place‖ over all tensors of a place together, scalars; None where it reaches none.

    The graph is kept, and nothing is accumulated in `.grad`.
    """
    tensors = [tensor for place in places for tensor in place]
    if torch.float16 in {loss.dtype, *(tensor.dtype for tensor in tensors)}:
        # Every place has a range of its own, and so needs a scale of its own.
        return [_half_norm(loss, place) for place in places]
    found = iter(_gradients(loss, tensors))
    by_place = [[next(found) for _ in place] for place in places]
    reached = [[g for g in gradients if g is not None] for gradients in by_place]
    return [_norm(gradients) if gradients else None for gradients in reached]


def _half_norm(loss: Tensor, at: Sequence[Tensor]) -> Tensor | None:
    """‖∂ loss / ∂ at‖ under float16, from the gradient of a scaled loss."""
    best, scale = None, HALF_START
    for _ in range(HALF_TRIALS):
        gradients = [g for g in _gradients(scale * loss.float(), at) if g is not None]
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


def _gradients(loss: Tensor, at: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of `loss` at `at` in float32 at least, None where it does not reach."""
    try:
        found = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "backward through the graph a second time" in str(error):
            raise RuntimeError(
                "host_loss, or a term, has been differentiated already and its graph is gone: call"
                " the balance before backward(), and backward() on what it returns"
            ) from error
        if "donated" not in str(error):
            raise
        raise RuntimeError(
            "measuring retains the graph of a compiled host: `import torch._functorch.config` and"
            " set torch._functorch.config.donated_buffer = False before the host is first run"
        ) from error
    return [
        None
        if gradient is None
        else gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        for gradient in found
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
