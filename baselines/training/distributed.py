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
from typing import Any

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


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name`; "auto" is the GPU where there is one, else the CPU.

    Raises:
        ValueError: a CUDA device is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"run.device={name}: no CUDA device here; use run.device=cpu")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


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
    """All ranks' tensors, concatenated; backward sums the ranks' gradients for the local part."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world, ctx.rows = world, tensor.shape[0]
        parts = [torch.empty_like(tensor) for _ in range(world.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.world.rank * ctx.rows : (ctx.world.rank + 1) * ctx.rows], None


def gather(tensor: Tensor, world: World) -> Tensor:
    """Concatenate the ranks' tensors along the first axis, in rank order, differentiably.

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
