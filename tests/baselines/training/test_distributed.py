"""Two gloo processes against one, on the same global batch."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from baselines.config import LossConfig
from baselines.errors import UserError
from baselines.networks.encoders import ImageFeatures
from baselines.training import distributed, terms
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.distributed import World, average_gradients
from baselines.training.terms import Captions, damsm_losses
from tests.baselines.commands import train_command, train_on_two_ranks, train_tiny

WORDS, REGIONS, E, BATCH = 5, 9, 6, 8


class Toy(nn.Module):
    """Two encoders without batch norm, whose statistics would be each rank's own."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(4, E)
        self.text = nn.Linear(3, E)

    def loss(self, pixels, tokens, lengths, class_ids, world):
        regions = self.image(pixels).transpose(1, 2).unflatten(2, (3, 3))
        words = self.text(tokens).transpose(1, 2)
        features = ImageFeatures(regions, regions.mean((2, 3)))
        captions = Captions(words.mean(2), words, lengths, class_ids)
        return sum(damsm_losses(features, captions, LossConfig(), world).values())


def inputs():
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(BATCH, REGIONS, 4, generator=generator, dtype=torch.float64)
    tokens = torch.randn(BATCH, WORDS, 3, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, WORDS + 1, (BATCH,), generator=generator)
    return pixels, tokens, lengths, torch.tensor([0, 1, 2, 0, 3, 4, 5, 3])


def toy():
    torch.manual_seed(5)
    return Toy().double()


def worker(rank: int, size: int, rendezvous: str, out: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size
    )
    world = World(rank, size)
    model = toy()
    share = [part[rank::size] for part in inputs()]
    model.loss(*share, world).backward()
    average_gradients(model.parameters(), world)
    mean = distributed.mean_over_ranks(torch.tensor(float(rank)), world)
    result = {name: p.grad for name, p in model.named_parameters()}
    torch.save({"gradients": result, "mean": mean}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_contrastive_gradients_are_those_of_the_global_batch(tmp_path):
    mp.spawn(worker, (2, str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    model = toy()
    model.loss(*inputs(), World()).backward()
    for rank in range(2):
        saved = load_torch(tmp_path / f"{rank}.pt")
        assert saved["mean"] == 0.5
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                saved["gradients"][name], parameter.grad, atol=1e-9, rtol=1e-9, msg=name
            )


def test_regions_stay_on_their_rank(monkeypatch):
    """At 64 GPUs the regions of a global batch are hundreds of megabytes, words and scores few."""
    gathered = []
    monkeypatch.setattr(terms, "gather", lambda tensor, world: gathered.append(tensor) or tensor)
    toy().loss(*inputs(), World())
    assert len(gathered) == 6
    assert not any(REGIONS in tensor.shape or 3 in tensor.shape[2:] for tensor in gathered)


def test_torchrun_trains_and_one_process_goes_on(tmp_path: Path, encoders: Path):
    run = tmp_path / "run"
    arguments = train_command("alrgan", run, encoders, 4)
    train_on_two_ranks(arguments)
    state = load_torch(checkpoints(run)[-1])
    assert state["progress"] == {"step": 2, "images": 16}
    state = train_tiny("alrgan", run, encoders, 6)
    assert state["progress"] == {"step": 3, "images": 24}  # the steps of two ranks, by one


def test_asking_for_a_gpu_that_is_not_there_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="device 'cuda' does not exist here, only cpu"):
        distributed.start("cuda")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "x"},
            "WORLD_SIZE='x' in the environment is no number: start with torchrun",
        ),
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 .* but RANK and MASTER_ADDR and MASTER_PORT not: start",
        ),
        ({"RANK": "5"}, "RANK=5 of WORLD_SIZE=1 in the environment: start with torchrun, or unset"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK='-1' in the environment is no number"),
    ],
)
def test_half_of_what_torchrun_sets_is_named(monkeypatch, variables, message):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distributed.start("cpu")
