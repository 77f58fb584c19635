"""Batch norms over several processes, against torch's own on the whole batch."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from baselines import train
from baselines.config import ConfigError
from baselines.data.loader import Batch
from baselines.runs import load_encoders
from baselines.training.checkpoint import load_torch
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from baselines.training.norms import GlobalBatchNorm, synchronise
from tests.support.tiny_run import tiny_config

ROWS, RANKS = 8, 2


def rows(world: World) -> Batch:
    """The rank's share of one batch of pictures and captions, in float64."""
    rng = torch.Generator().manual_seed(3)
    images = torch.rand(ROWS, 3, 32, 32, generator=rng, dtype=torch.float64) * 2 - 1
    captions = torch.randint(1, 20, (ROWS, 18), generator=rng)
    lengths = torch.randint(1, 19, (ROWS,), generator=rng)
    own = slice(world.rank, None, world.size)
    return Batch(
        images[own], captions[own], lengths[own], torch.arange(ROWS)[own],
        tuple(map(str, range(ROWS)))[own], torch.zeros(ROWS, dtype=torch.int64)[own],
    )  # fmt: skip


def step(encoders: Path, world: World, *, synchronised: bool) -> dict[str, torch.Tensor]:
    """Gradients of all phases of one step of an AttnGAN, and its running statistics after it."""
    torch.set_default_dtype(torch.float64)
    config = tiny_config("attngan")
    optim = dataclasses.replace(
        config.optim,
        batch_size=ROWS // world.size,
        sync_batch_norm=synchronised,
        # Sums over the ranks while activations are computed again are the same sums.
        checkpoint_activations=world.size > 1,
    )
    found = load_encoders(encoders)
    found.text.double(), found.image.double()
    objective = train.build_objective(dataclasses.replace(config, optim=optim), found, world)
    shared, scaler = objective.begin(rows(world), 1), torch.amp.GradScaler("cpu", enabled=False)
    result = {}
    for phase in objective.phases:
        run_phase(phase, objective.phases, [shared], scaler, world)
        trained = objective.net if phase.name == "G" else objective.discriminators
        result |= {
            f"{phase.name} {name}": p.grad.clone()
            for name, p in trained.named_parameters()
            if any(p is own for own in phase.parameters)
        }
    for network in (objective.net, objective.discriminators):
        result |= {name: b for name, b in network.named_buffers() if "running" in name}
    assert sum(name.startswith("G ") for name in result) > 10 < len(result) - 20
    return result


def worker(rank: int, folder: str, encoders: Path) -> None:
    """One of the processes: the step with and without common statistics."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS
    )
    world = World(rank, RANKS)
    both = {str(on): step(encoders, world, synchronised=on) for on in (False, True)}
    torch.save(both, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_gradients_and_statistics_are_those_of_one_process(tmp_path, encoders):
    mp.spawn(worker, (str(tmp_path), encoders), nprocs=RANKS)
    try:
        whole = step(encoders, World(), synchronised=True)
    finally:
        torch.set_default_dtype(torch.float32)
    for rank in range(RANKS):
        found = load_torch(tmp_path / f"{rank}.pt", ours=False)
        assert found["True"].keys() == whole.keys()
        errors = {
            on: max(
                float((values[name] - whole[name]).norm() / whole[name].norm().clamp(1e-12))
                for name in whole
            )
            for on, values in found.items()
        }
        assert errors["True"] < 1e-6 and errors["False"] > 1e-2, errors


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm1d(3), (6, 3)), (nn.BatchNorm2d(3, 1e-3, 0.3), (4, 3, 5, 2))]
)
def test_alone_it_is_torchs_norm(norm, shape):
    torch.manual_seed(0)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    twin = type(norm)(3, norm.eps, norm.momentum)
    twin.load_state_dict(norm.state_dict())
    own = GlobalBatchNorm(twin, World())
    assert own.state_dict().keys() == norm.state_dict().keys() and own.weight is twin.weight
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-1)):
        values = (torch.randn(shape) * 2 + 30).to(dtype).requires_grad_()
        upstream = torch.randn(shape).to(dtype)
        results = []
        for module in (norm, own):
            module.zero_grad(), setattr(values, "grad", None)
            output = module(values)
            output.backward(upstream)
            results.append([output, values.grad, module.weight.grad, *module.buffers()])
        for ours, theirs in zip(*results, strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    norm.eval(), own.eval()
    torch.testing.assert_close(own(values), norm(values))
    with pytest.raises(ValueError, match=r"expected \(B, C, \.\.\.\)"):
        own.train()(torch.randn(3))


def test_alone_nothing_is_exchanged():
    network = nn.Sequential(nn.BatchNorm1d(3))
    synchronise(network, World())
    assert type(network[0]) is nn.BatchNorm1d


def test_hosts_without_batch_norms_refuse_the_setting(tmp_path):
    given = ["--run-dir", str(tmp_path / "run"), "--set", "optim.sync_batch_norm=true"]
    with pytest.raises(ConfigError, match=r"sync_batch_norm=true: has no effect on dfgan"):
        train.main(["dfgan", "--preset", "demo", *given])
    assert train.configure(train.parse(["stackgan", "--preset", "demo", *given]))
