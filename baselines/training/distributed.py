"""One process or many: started plainly or by torchrun, the same code and the same gradient.

Networks are not wrapped: several of them share one generator pass per step. Gradients are
averaged over the ranks after each backward, and what couples the samples of a batch (the DAMSM
losses, the choice of wrong captions) sees the gathered global batch. Batch norms keep per-rank
statistics, as the originals do per device.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from baselines.errors import UserError


@dataclass(frozen=True)
class World:
    """This process's place: `rank` of `size`, computing on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """Find the device called `name` and try it out; "auto" is a GPU where there is one.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", ...
        local_rank: the GPU that "cuda" and "auto" mean, where several processes share a machine.

    Raises:
        UserError: there is no such device here.
    """
    here = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if here else "cpu") if name == "auto" else name)
        if device.type == "cuda" and device.index is None and local_rank is not None:
            device = torch.device("cuda", local_rank)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device {name!r} does not exist here, only {', '.join(devices())}; use one of them, "
            "or auto"
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def devices() -> list[str]:
    """The devices of this machine."""
    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def start(device_name: str) -> World:
    """Join the process group that torchrun describes in the environment, if it does."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = pick_device(device_name, int(os.environ.get("LOCAL_RANK", "0")))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank, size, device)


@contextmanager
def started(device_name: str) -> Iterator[World]:
    """`start`, and leave the process group at the end."""
    world = start(device_name)
    try:
        yield world
    finally:
        if world.size > 1:
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All ranks' rows in global order; backward sums the ranks' gradients for the local ones."""

    @staticmethod
    def forward(ctx, tensor: Tensor, world: World) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.world = world
        parts = [torch.empty_like(tensor) for _ in range(world.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.world.rank :: ctx.world.size], None


def gather(tensor: Tensor, world: World) -> Tensor:
    """The rows of all ranks in the order of the global batch, differentiably.

    Row j of rank r is row j · size + r, as the loader deals them out: what depends on the order
    does not depend on how many ranks share the batch. All ranks must have as many rows.

    When every rank computes the same loss of the gathered batch and gradients are then averaged
    over the ranks, the parameters receive the gradient of that loss, once.
    """
    return tensor if world.size == 1 else _Gather.apply(tensor, world)


def average_gradients(parameters: Iterable[Parameter], world: World) -> None:
    """Replace every gradient by its mean over the ranks, in one flat all-reduce."""
    if world.size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world.size
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def mean_over_ranks(tensor: Tensor, world: World) -> Tensor:
    """The mean of a tensor over the ranks, without gradient."""
    if world.size == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world.size


def any_rank(value: bool, world: World) -> bool:
    """Whether `value` is true on any rank; waits for all of them."""
    return bool(mean_over_ranks(torch.tensor(float(value), device=world.device), world))


def broadcast(module: nn.Module, world: World) -> None:
    """Give every rank the first rank's parameters and buffers."""
    if world.size > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def step_seed(seed: int, number: int, rank: int) -> int:
    """A seed of its own for every step of every rank."""
    return ((seed * 1_000_003 + number) * 4_099 + rank) % 2**63
