"""One process or many: started plainly or by torchrun, the same code and the same gradient.

Networks are not wrapped: several of them share one generator pass per step. Gradients are
averaged over the ranks after each backward, and what couples the samples of a batch (the DAMSM
losses, the choice of wrong captions) sees the gathered global batch. Batch norms keep per-rank
statistics, as the originals do per device, unless `norms.synchronise` is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from baselines.errors import UserError
from baselines.training.peers import STATUS, Peers, RankError, linger

PATIENCE = timedelta(days=1)  # for the other ranks in an operation of all
MEETING = timedelta(minutes=5)  # for the other ranks to come to the start


@dataclass(frozen=True)
class World:
    """This process's place: `rank` of `size`, computing on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    peers: Peers | None = field(default=None, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def at(self, place: str) -> None:
        """Tell the other ranks' watch what this one does from now on (see `Peers.at`)."""
        if self.peers is not None:
            self.peers.at(place)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this rank waits for the others, it is not the one that hangs."""
        self.at("wait")
        yield
        self.at("step")

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Refuse to start where ranks differ in `facts`.

        Raises:
            RankError: naming the ranks and what differs.
        """
        if self.peers is not None:
            self.peers.require_same(facts)


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
    """Join the process group that torchrun describes in the environment, if it does.

    Raises:
        UserError: the environment describes none, or the device does not exist.
    """
    rank, size, local_rank = _place()
    device = pick_device(device_name, local_rank)
    if size == 1:
        return World(rank, size, device)
    if not dist.is_initialized():
        # Who hangs is found by signs of life: the others may wait long for a validation.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return World(rank, size, device, Peers(connect, rank, size))


def _place() -> tuple[int, int, int | None]:
    """The rank, the number of ranks and the local rank that the environment names.

    Schedulers set some of these variables for programs that were not started by torchrun too.
    """
    remedy = "start with torchrun, or unset RANK and WORLD_SIZE"
    found: dict[str, int | None] = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        text = os.environ.get(name)
        if text is not None and not text.isdecimal():
            raise UserError(f"{name}={text!r} in the environment is no number: {remedy}")
        found[name] = None if text is None else int(text)
    rank, size = found["RANK"] or 0, found["WORLD_SIZE"] or 1
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT") if size > 1 else ()
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE={size} in the environment, but {' and '.join(missing)} not: {remedy}"
        )
    if rank >= size:
        raise UserError(f"RANK={rank} of WORLD_SIZE={size} in the environment: {remedy}")
    return rank, size, found["LOCAL_RANK"]


def connect() -> dist.Store:
    """A new connection to the store at which the ranks of this job have met."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=MEETING)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"alr-layers/{attempt}", store)


@contextmanager
def started(device_name: str) -> Iterator[World]:
    """`start`, and leave the process group at the end.

    When a rank fails, its error is the job's: the other ranks end without one of their own.
    """
    world = start(device_name)
    if world.peers is None:
        yield world
        return
    try:
        yield world
        world.peers.close()
        dist.destroy_process_group()
    except BaseException as error:
        raised = end_of_job(error, world.peers)
        world.peers.stop()
        raise raised from None


def end_of_job(error: BaseException, peers: Peers) -> BaseException:
    """What a rank raises that ends with `error`: that, who is to blame, or a silent end."""
    lost = isinstance(error, dist.DistError) or "gloo" in str(error)
    if lost and isinstance(error, RuntimeError):
        reason = peers.verdict()
        if not reason:
            return SystemExit(STATUS)
        error = RankError(f"{reason}; the last checkpoint is intact, start again to go on from it")
    try:
        if not peers.claim():
            return SystemExit(STATUS)
        linger()
        return error
    except (RuntimeError, dist.DistError):
        return error  # whoever kept the store has gone


class _Gather(torch.autograd.Function):
    """All ranks' rows in global order; backward sums the ranks' gradients for the local ones."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        parts = [torch.empty_like(tensor) for _ in range(world.size)]
        with world.waiting():
            dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()
        with ctx.world.waiting():
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


class _Sum(torch.autograd.Function):
    """The sum over all ranks; backward sums the ranks' gradients of it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        total = tensor.clone(memory_format=torch.contiguous_format)
        with world.waiting():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad, ctx.world), None


def sum_over_ranks(tensor: Tensor, world: World) -> Tensor:
    """The sum of a tensor over the ranks, the same on each, differentiably.

    When every rank has a loss of its own and gradients are then averaged over the ranks, the
    parameters receive the gradient of the mean loss.
    """
    return tensor if world.size == 1 else _Sum.apply(tensor, world)


def average_gradients(parameters: Iterable[Parameter], world: World) -> None:
    """Replace every gradient by its mean over the ranks, in one flat all-reduce."""
    if world.size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    with world.waiting():
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
    with world.waiting():
        dist.all_reduce(total)
    return total / world.size


class Vote:
    """Whether any rank wants something, known one step later so that no device has to wait.

    Every rank calls it once a step; all get the same answer for the same step.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._group: Any = None
        self._pending: tuple[Tensor, Any] | None = None
        if world.size > 1 and world.device.type != "cpu":
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def __call__(self, value: bool) -> bool:
        """Whether `value` was true on any rank in the call before this one."""
        if self.world.size == 1:
            return value
        votes = torch.tensor(int(value))
        before, self._pending = self._pending, (votes, self._cast(votes))
        if before is None:
            return False
        with self.world.waiting():
            before[1].wait()
        return bool(before[0])

    def _cast(self, votes: Tensor) -> Any:
        return dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

    def close(self) -> None:
        """Wait for the last vote, which decides nothing any more."""
        if self._pending is not None:
            self._pending[1].wait()


def broadcast(module: nn.Module, world: World) -> None:
    """Give every rank the first rank's parameters and buffers."""
    if world.size > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def share_of_batch(
    saved: Mapping[str, Any] | None, batch_size: int, accumulate: int, world: World
) -> int:
    """How many images each rank reads at a time, so that a step keeps its images for ever.

    A new run has `batch_size` of them per rank. One that goes on with another number of ranks
    deals out the same steps: the images of a step stand in its checkpoints.

    Raises:
        UserError: the images of a step cannot be dealt out evenly.
    """
    parts = world.size * accumulate
    images = int((saved or {}).get("batch", batch_size * parts))
    if images % parts:
        raise UserError(
            f"a step of this run has {images} images, which {world.size} ranks and "
            f"optim.accumulate={accumulate} do not share evenly; use another number of ranks"
        )
    return images // parts


def step_seed(seed: int, number: int, rank: int) -> int:
    """A seed of its own for every step of every rank."""
    return ((seed * 1_000_003 + number) * 4_099 + rank) % 2**63
