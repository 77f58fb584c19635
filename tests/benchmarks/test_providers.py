"""What is compared must compute the same thing."""

import pytest
import torch

from baselines.losses import words_loss
from benchmarks import upstream
from benchmarks.cases import Shape, cases
from benchmarks.run import _calls

SHAPE = Shape("small", 2, 8, 5, 6)
CASES = {case.name: case for case in cases()}
CPU = torch.device("cpu")


def test_the_transcription_is_the_loss_path():
    case = CASES["loss_path"]
    torch.manual_seed(0)
    arguments = case.inputs(SHAPE, torch.float32, CPU)
    wanted = [arguments[0], *arguments[4].parameters(), *arguments[5].parameters()]
    results = []
    for name in ("transcription", "eager"):
        outputs = case.providers[name](*arguments)
        grads = torch.autograd.grad(outputs, wanted, [torch.ones_like(x) for x in outputs])
        results.append((*outputs, *grads))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_the_loop_over_captions_is_the_words_loss():
    torch.manual_seed(0)
    regions, words = torch.randn(4, 8, 5, 5), torch.randn(4, 8, 6)
    lengths, classes = torch.tensor([6, 1, 3, 4]), torch.tensor([0, 1, 0, 2])
    gammas = {"gamma1": 4.0, "gamma2": 5.0, "gamma3": 10.0}
    ours = words_loss(regions, words, lengths, classes, **gammas)
    loop = upstream.words_loss(regions, words, lengths, classes, **gammas)
    torch.testing.assert_close(ours, loop, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_mode_of_the_reference_runs(name):
    provider = "eager"
    for call, prepare in _calls(CASES[name], provider, SHAPE, torch.float32, CPU).values():
        prepare()
        call()


def test_floor_of_the_layout_by_hand():
    """h, dq, h, and dΘ in; q, Θ, dh out: D 8, T 5, 36 regions, two samples, four bytes."""
    case = CASES["layout_context"]
    assert case.floor_bytes(SHAPE, torch.float32, "forward") == (8 + 8 + 5) * 36 * 2 * 4
    assert case.floor_bytes(SHAPE, torch.float32, "backward") == (8 + 8 + 5 + 8) * 36 * 2 * 4
    assert case.floor_bytes(SHAPE, torch.float32, "memory") is None
