"""What is compared must compute the same thing."""

import pytest
import torch

from alr_layers.kernels import reference
from baselines.losses import words_loss
from benchmarks import upstream
from benchmarks.cases import PROVIDERS, Shape
from benchmarks.paths import cases
from benchmarks.records import Call, Job

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
        outputs = case.functions[name](*arguments)
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
def test_every_mode_of_every_plain_provider_runs(name):
    plain = [n for n in CASES[name].providers if PROVIDERS[n].options is None]
    for provider in set(plain) - {"copy", "fused"}:
        call = Call(Job(CASES[name], provider, "both", SHAPE, torch.float32), CPU)
        call.prepare("backward")
        for action in (call.backward, call.forward, call.both):
            action()


def test_the_path_without_phi_is_the_path_given_the_weights():
    """With α and β from φ, the same loss as the modules give."""
    torch.manual_seed(0)
    h, real, words, lengths, module, alr, lvr = CASES["loss_path"].inputs(SHAPE, torch.float32, CPU)
    with torch.no_grad():
        projected = module.word_projection(words)
        layout, real_layout = (module.layout(x, words, lengths) for x in (h, real))
        easy, hard = reference.gated_residual(layout, real_layout, real, alr.gamma)
        alpha, beta = alr.phi_easy(easy), alr.phi_hard(hard)
        without = CASES["loss_path_without_phi"].functions["eager"]
        loss, context, *gated = without(h, projected, alpha, beta, real, lengths)
        size = SHAPE.dim * SHAPE.regions
        found = {**alr.terms(layout, real_layout, real), **lvr.terms(h, real, layout, real_layout)}
    torch.testing.assert_close(loss, sum(found.values()) * size)
    torch.testing.assert_close(context, module(h, words, lengths).context)
    torch.testing.assert_close(gated, [easy, hard])


def test_variants_of_phi_agree():
    case = CASES["phi"]
    arguments = case.inputs(SHAPE, torch.float32, CPU)
    plain = case.functions["eager"](*arguments)
    for name, tolerance in {"channels_last": 1e-6, "autocast": 0.02}.items():
        for x, y in zip(plain, case.functions[name](*arguments), strict=True):
            torch.testing.assert_close(x, y.float(), rtol=0, atol=tolerance)


def test_floor_of_the_layout_by_hand():
    """h, dq, h, and dΘ in; q, Θ, dh out: D 8, T 5, 36 regions, two samples, four bytes."""
    case = CASES["layout_context"]
    assert case.floor_bytes(SHAPE, torch.float32, "forward") == (8 + 8 + 5) * 36 * 2 * 4
    assert case.floor_bytes(SHAPE, torch.float32, "backward") == (8 + 8 + 5 + 8) * 36 * 2 * 4
    assert case.floor_bytes(SHAPE, torch.float32, "memory") is None
