"""Two processes under DistributedDataParallel learn what one process learns from both halves."""

import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import alr_layers
from tests.support.inputs import make_inputs
from tests.support.tolerances import assert_exact

PROCESSES = 2


class Stage(nn.Module):
    """A host's stage and its refinement, in one module as a trainer would wrap it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = alr_layers.ALRModule(8, 6)
        self.head = nn.Conv2d(8, 3, 1)
        self.refinement = alr_layers.LayoutRefinement(self.module, decode=self.decode)

    def decode(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, features: Tensor, images: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        context, layout = self.module(features, words, lengths)
        terms = self.refinement(features, layout, images, words, lengths)
        return context.square().mean() + 100 * sum(terms.values())


def batch() -> tuple[Tensor, ...]:
    inputs = make_inputs(2 * PROCESSES, 5, 8, 4, 6, dtype=torch.float32)
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(2 * PROCESSES, 3, 4, 6, generator=generator).tanh()
    words = torch.randn(2 * PROCESSES, 6, 5, generator=generator)
    return inputs.features, images, words, inputs.lengths


def join(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=PROCESSES)


def on_all_ranks(work: Callable[[int, int, str], None], folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, str(folder)), nprocs=PROCESSES)


def train(rank: int, port: int, folder: str) -> None:
    join(rank, port)
    stage = DistributedDataParallel(Stage())
    mine = slice(2 * rank, 2 * rank + 2)
    stage(*(value[mine] for value in batch())).backward()
    grads = {name: parameter.grad for name, parameter in stage.module.named_parameters()}
    torch.save(grads, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    on_all_ranks(train, tmp_path)
    stage = Stage()
    stage(*batch()).backward()
    for rank in range(PROCESSES):
        grads = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, parameter in stage.named_parameters():
            assert_exact(grads[name], parameter.grad, roundings=256)
            assert parameter.grad.abs().sum() > 0, name


SHARES = {name: number / 100 for number, name in enumerate("abcdefgh", 1)}


class Balanced(nn.Module):
    """A generator, its features handed out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(features).tanh()
        return self.head(h), h


def balanced_loss(
    host: nn.Module, balance: alr_layers.TermBalance, features: Tensor, step: int
) -> Tensor:
    image, h = host(features)
    terms = {name: (number * h).exp().mean() for number, name in enumerate("abcdefgh", 1)}
    return balance(image.square().mean(), terms, at=h, step=step)


def train_balanced(rank: int, port: int, folder: str) -> None:
    join(rank, port)
    host, balance = DistributedDataParallel(Balanced()), alr_layers.TermBalance(every=2, **SHARES)
    optimizer = torch.optim.SGD(host.parameters(), lr=0.1)
    mine = batch()[0][2 * rank : 2 * rank + 2]
    for step in range(3):
        optimizer.zero_grad()
        balanced_loss(host, balance, mine, step).backward()
        optimizer.step()
    state = {"host": host.module.state_dict(), "balance": balance.state_dict()}
    torch.save(state, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_agree_on_the_scale_that_one_process_finds(tmp_path):
    on_all_ranks(train_balanced, tmp_path)
    host, balance = Balanced(), alr_layers.TermBalance(every=2, **SHARES)
    optimizer = torch.optim.SGD(host.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        balanced_loss(host, balance, batch()[0], step).backward()
        optimizer.step()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, scale in balance.state_dict().items():
        assert torch.equal(first["balance"][name], second["balance"][name]), name
        torch.testing.assert_close(first["balance"][name], scale)
    for name, value in host.state_dict().items():
        assert_exact(first["host"][name], value, roundings=256)
