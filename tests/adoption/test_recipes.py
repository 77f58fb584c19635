"""Every recipe, applied to its miniature host, trains it as promised.

Terms stay near the share asked for, the host's running statistics never see real features, its
state_dict keeps its keys, a resumed run is the uninterrupted one, and before the terms start the
host trains as if nothing were attached.
"""

import copy
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alr_layers import LayoutRefinement, TermBalance
from tests.adoption.support import FOLDER, added, host, recipe

HOSTS = sorted(path.stem for path in FOLDER.glob("*.diff"))
SHARES = {"alr": 0.05, "lvr": 0.02}


def trainer_of(module: ModuleType):
    return getattr(module, "condGANTrainer", None) or module.Trainer


def tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a nested state, with their path."""
    if isinstance(value, Tensor):
        yield path, value
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, part in items:
        yield from tensors(part, f"{path}/{key}")


def state(trainer) -> dict[str, Tensor]:
    parts = {name: part.state_dict() for name, part in trainer.state().items()}
    return {name: value.clone() for name, value in tensors(parts)}


def assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(ours[name], value), name


def test_every_host_has_its_recipe():
    found = {path.stem for path in (FOLDER / "hosts").glob("*.py")} - {"__init__"}
    assert found == set(HOSTS)


@pytest.mark.parametrize("name", ["attngan", "dmgan", "stackgan", "dfgan", "ssagan"])
def test_at_most_twelve_lines(name):
    assert len(added(recipe(name))) <= 12


@pytest.mark.parametrize("name", HOSTS)
def test_terms_are_at_their_share(name, tmp_path, monkeypatch):
    """Measured here by plain autograd, in steps that measure and in those that do not.

    Gradients of batches of four differ much: exact where measured first, in the mean otherwise.
    """
    trainer = trainer_of(host(name, tmp_path))()
    ratios: dict[tuple[int, str], list[float]] = {}
    weighted = TermBalance.weighted

    def spy(self, host_loss, terms, *, at, step, anchors=None):
        stages = weighted(self, host_loss, terms, at=at, step=step, anchors=anchors)
        places = [at] if isinstance(at, Tensor) else at
        for index, (h, stage) in enumerate(zip(places, stages, strict=True)):
            assert stage.keys() == {"alr", "lvr", "reconstruction"}
            (wanted,) = torch.autograd.grad(host_loss, h, retain_graph=True)
            for term, share in SHARES.items():
                (found,) = torch.autograd.grad(stage[term], h, retain_graph=True)
                ratio = float(found.norm() / wanted.norm()) / share
                ratios.setdefault((index, term), []).append(ratio)
        return stages

    monkeypatch.setattr(TermBalance, "weighted", spy)
    trainer.train(0, 16)
    assert len(ratios) in (2, 4)
    for found in ratios.values():
        assert found[0] == pytest.approx(1, rel=1e-4)
        assert 0.5 < statistics.geometric_mean(found) < 2, found


@pytest.mark.parametrize("name", HOSTS)
def test_statistics_never_see_real_features(name, tmp_path, monkeypatch):
    trainer = trainer_of(host(name, tmp_path))()
    terms, calls = LayoutRefinement.terms, []

    def spy(self, *args, **kwargs):
        before = {name: value.clone() for name, value in trainer.netG.named_buffers()}
        found = terms(self, *args, **kwargs)
        assert_same(dict(trainer.netG.named_buffers()), before)
        calls.append(before)
        return found

    monkeypatch.setattr(LayoutRefinement, "terms", spy)
    trainer.train(0, 2)
    moved = [not torch.equal(calls[0][name], calls[-1][name]) for name in calls[0]]
    assert not moved or (any(moved) and len(calls) >= 2), "the host's own passes do move them"


@pytest.mark.parametrize("name", HOSTS)
def test_the_hosts_state_dict_keeps_its_keys(name, tmp_path):
    plain, adopted = (trainer_of(host(name, tmp_path, adopted=done))() for done in (False, True))
    keys = {key: value.shape for key, value in plain.netG.state_dict().items()}
    assert {key: value.shape for key, value in adopted.netG.state_dict().items()} == keys
    adopted.train(0, 1)
    assert list(adopted.netG.state_dict()) == list(keys)


@pytest.mark.parametrize("name", HOSTS)
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    build = trainer_of(host(name, tmp_path))
    straight, first, second = build(), build(), build()
    straight.train(0, 5)
    first.train(0, 3)
    first.save_model(tmp_path / "model.pth")
    second.load_model(tmp_path / "model.pth")
    second.train(3, 5)
    assert_same(state(second), state(straight))


@pytest.mark.parametrize("name", HOSTS)
def test_everything_added_learns(name, tmp_path):
    trainer = trainer_of(host(name, tmp_path))()
    parts = [getattr(trainer, part) for part in ("refine", "alr") if hasattr(trainer, part)]
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    trainer.train(0, 2)
    for part, old in zip(parts, before, strict=True):
        for key, value in part.named_parameters():
            # Without a single hard element φ_β has nothing to learn: R < γ everywhere.
            assert "phi_hard" in key or not torch.equal(value, old[key]), key


@pytest.mark.parametrize("name", HOSTS)
def test_before_the_start_the_host_trains_as_ever(name, tmp_path, monkeypatch):
    plain, adopted = (trainer_of(host(name, tmp_path, adopted=done))() for done in (False, True))
    monkeypatch.setattr(TermBalance, "weight", lambda self, term, step: 0.0)
    plain.train(0, 3)
    adopted.train(0, 3)
    assert_same(dict(adopted.netG.state_dict()), dict(plain.netG.state_dict()))


def test_old_checkpoints_go_on_with_fresh_refinement(tmp_path):
    """Resuming what was trained without: load first, attach afterwards."""
    plain = trainer_of(host("attngan", tmp_path, adopted=False))()
    plain.train(0, 2)
    from alr_layers import attach

    old = trainer_of(host("attngan", tmp_path, adopted=False))()
    plain.save_model(tmp_path / "old.pth")
    old.load_model(tmp_path / "old.pth")
    refine = attach(old.netG, optimizer=old.optimizerG)
    assert len(old.optimizerG.param_groups) == 2
    old.train(2, 3)
    plain.train(2, 3)
    assert_same(dict(old.netG.state_dict()), dict(plain.netG.state_dict()))
    assert not any(parameter.grad is not None for parameter in refine.parameters())


def train_rank(rank: int, name: str, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    own = Path(folder) / str(rank)
    own.mkdir()
    module = host(name, own)
    load_batch = module.load_batch
    module.load_batch = lambda step, sizes: load_batch(2 * step + rank, sizes)
    trainer = trainer_of(module)()
    trainer.netG = DistributedDataParallel(trainer.netG)
    trainer.refine = DistributedDataParallel(trainer.refine)
    trainer.train(0, 3)
    parts = {"netG": trainer.netG.module, "refine": trainer.refine.module}
    learnt = {
        f"{part}.{key}": value
        for part, network in parts.items()
        for key, value in [*network.named_parameters(), *buffers_of(network)]
    }
    torch.save(learnt, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def buffers_of(network: nn.Module) -> list[tuple[str, Tensor]]:
    """The scales of the balance; running statistics are those of each rank."""
    return [entry for entry in network.named_buffers() if entry[0].startswith("balance")]


@pytest.mark.parametrize("name", ["attngan", "dfgan"])
def test_two_ranks_agree(name, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_rank, args=(name, port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert any("balance" in key for key in first)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    alone = trainer_of(host(name, tmp_path))()
    start = dict(alone.netG.named_parameters())
    assert any(not torch.equal(first[f"netG.{key}"], value) for key, value in start.items())
