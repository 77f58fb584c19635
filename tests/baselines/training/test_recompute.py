"""Activations computed again: the same step in less memory."""

import dataclasses

import pytest
import torch
from torch import Tensor

from baselines import train
from baselines.estimate import memory
from baselines.runs import load_encoders
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from tests.baselines.commands import differences, train_command
from tests.baselines.training.test_norms import rows

HOSTS = [("attngan", ""), ("dmgan", ""), ("stackgan", ""), ("dfgan", ""), ("alrgan", "alr,lvr")]


def configured(model, encoders, again, refine=""):
    size = ("model.base_size=32", "model.stages=1") if model == "dfgan" else ()
    given = train_command(
        model, encoders / "run", encoders, 1, *size, f"optim.checkpoint_activations={again}",
        "refine.alr.share=0.1" if refine else "run.log_every=1", refine=refine,
    )  # fmt: skip
    return train.configure(train.parse(given))


def step(config, encoders):
    """(gradients by parameter, everything else that a step leaves, bytes kept for the backward)."""
    found = load_encoders(encoders)
    objective = train.build_objective(train.settled(config, found, World()), found, World())
    assert sum(p.numel() for p in objective.net.parameters()) > 1000
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = rows(World())
    images = batch.images.float()
    batch = dataclasses.replace(batch, images=images, wrong_images=images.flip(0))
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        shared = objective.begin(batch, 1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for phase in objective.phases:
        run_phase(phase, objective.phases, [shared], scaler, World())
    gradients = {name: p.grad for name, p in objective.net.named_parameters()}
    buffers = {
        f"{network} {name}": value
        for network, module in objective.networks.items()
        for name, value in module.named_buffers()
    }
    states = {"torch": torch.get_rng_state(), "noise": objective.rng.get_state()}
    return gradients, {**buffers, **states}, sum(kept.values())


@pytest.mark.parametrize(("model", "refine"), HOSTS)
def test_a_step_is_the_same_and_keeps_less(model, refine, encoders):
    plain, again = (
        step(configured(model, encoders, on, refine), encoders) for on in ("false", "true")
    )
    assert differences(plain[1], again[1]) == [], "running statistics or a random state"
    assert plain[0].keys() == again[0].keys()
    for name, gradient in plain[0].items():
        torch.testing.assert_close(again[0][name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    assert again[2] < 0.75 * plain[2]


def test_the_estimate_of_memory_knows_it():
    plain, again = (
        train.configure(
            train.parse(
                ["attngan", "--preset", "cub", "--run-dir", "x", "--set",
                 f"optim.checkpoint_activations={on}"]
            )
        )
        for on in ("false", "true")
    )  # fmt: skip
    assert memory(again, "train") < 0.95 * memory(plain, "train")
