"""Keep real features out of a host's running statistics: frozen_statistics."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# What norms call their statistics: torch's and most home-made ones, and BigGAN's standing ones.
STATISTICS = frozenset({"running_mean", "running_var", "stored_mean", "stored_var"})


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let the norms in `module` work as ever, but leave their running statistics as they were.

    Real features pass through the generator's layers in training only. Were they to move the
    running statistics, inference would normalise by a mixture of real and synthesized features.
    In training mode batch norms normalise by the batch, as always; in evaluation mode by the
    running statistics, as always.

    Every norm that keeps `running_mean` or `running_var` is covered, however it updates them:
    torch's batch and instance norms, SyncBatchNorm, and home-made ones that ignore
    `track_running_stats`, write in place or put new tensors in their place. For the length of the
    block their buffers are exchanged for copies, and the originals put back untouched, also after
    an error: no tensor that autograd has seen is written to. `LayoutRefinement` does this around
    `decode` by itself.

    Works on a compiled, DDP or DataParallel wrapped network. Not for two threads at once, and what
    is loaded into or moved with the network inside the block is lost.

    Args:
        module: the network whose statistics must not move; everything inside it is covered.

    Raises:
        TypeError: not a module, or a TorchScript one, whose buffers cannot be exchanged.

    Example:
        >>> import torch
        >>> norm = torch.nn.BatchNorm2d(3)
        >>> with frozen_statistics(norm):
        ...     normalized = norm(torch.randn(2, 3, 4, 4))
        >>> norm.running_mean, int(norm.num_batches_tracked)
        (tensor([0., 0., 0.]), 0)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}, expected a torch.nn.Module")
    with all_frozen((module,)):
        yield


@contextmanager
def all_frozen(modules: tuple[nn.Module, ...]) -> Iterator[None]:
    """`frozen_statistics` of several networks."""
    parts = {id(part): part for module in modules for part in module.modules()}
    kept = [entry for part in parts.values() for entry in _statistics(part)]
    try:
        for store, name, value in kept:
            store[name] = _copy(value)
        yield
    finally:
        for store, name, value in kept:
            store[name] = value


def keeps_statistics(module: nn.Module) -> bool:
    """Whether anything in `module` keeps running statistics."""
    return any(_statistics(part) for part in module.modules())


def _statistics(part: nn.Module) -> list[tuple[MutableMapping[str, Any], str, Tensor]]:
    """Where `part` itself keeps statistics: (store, name, tensor).

    Of a norm all buffers count (the number of batches, helpers of home-made norms); parameters and
    plain attributes by their names.
    """
    if isinstance(part, torch.jit.ScriptModule):
        if STATISTICS & dict(part.named_buffers(recurse=False)).keys():
            raise TypeError(
                f"module holds a TorchScript {part.original_name} with running statistics, which"
                " cannot be kept from moving; use the network it was made from"
            )
        return []
    stores: tuple[MutableMapping[str, Any], ...] = (part._buffers, part._parameters, part.__dict__)
    if not any(isinstance(store.get(name), Tensor) for store in stores for name in STATISTICS):
        return []
    return [
        (store, name, value)
        for store in stores
        for name, value in store.items()
        if isinstance(value, Tensor) and (store is part._buffers or name in STATISTICS)
    ]


def _copy(value: Tensor) -> Tensor:
    copy = value.detach().clone()
    if isinstance(value, nn.Parameter):
        return nn.Parameter(copy, requires_grad=value.requires_grad)
    return copy
