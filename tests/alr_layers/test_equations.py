"""The reference against an independent transcription of E1-E12, by values and by gradients."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import alr_layers
from alr_layers.kernels import reference
from tests.support import oracles
from tests.support.inputs import ARGUMENTS, SHAPES, make_inputs
from tests.support.tolerances import assert_exact

SCALAR_OPTIONS = [{"mask": "soft", "gamma": 0.1}, {"mask": "hard", "gamma": 0.6}]


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def gradients(op, args) -> list[Tensor]:
    """Of a fixed random weighting of all outputs, at every floating argument."""
    leaves = [
        arg.detach().clone().requires_grad_()
        if isinstance(arg, Tensor) and arg.is_floating_point()
        else arg
        for arg in args
    ]
    weights = torch.Generator().manual_seed(1)
    total = sum(
        (out * torch.rand(out.shape, generator=weights, dtype=torch.float64)).sum()
        for out in outputs(op(*leaves))
    )
    wanted = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    return list(torch.autograd.grad(total, wanted, materialize_grads=True))


@pytest.mark.parametrize("options", SCALAR_OPTIONS, ids=["soft", "hard"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("op", ARGUMENTS)
def test_reference_equals_transcription(op, shape, options):
    args = make_inputs(*shape, **options).args(op)
    actual, exact = getattr(reference, op), getattr(oracles, op)
    pairs = zip(outputs(actual(*args)), outputs(exact(*args)), strict=True)
    for ours, truth in pairs:
        assert ours.dtype == torch.float64
        assert_exact(ours, truth)
    for ours, truth in zip(gradients(actual, args), gradients(exact, args), strict=True):
        assert_exact(ours, truth)


@pytest.mark.parametrize("op", ARGUMENTS)
def test_reference_is_differentiable_twice(op):
    inputs = make_inputs(2, 3, 3, 2, 2, gamma=0.5)
    # |R| and the threshold have no derivative at 0 and γ: stay clear of both.
    residual = torch.rand_like(inputs.layout) * 0.4 + torch.randint_like(inputs.layout, 2) * 0.5
    inputs = replace(inputs, real_layout=inputs.layout + residual + 0.05)
    args = tuple(
        arg.requires_grad_() if isinstance(arg, Tensor) and arg.is_floating_point() else arg
        for arg in inputs.args(op)
    )
    assert gradcheck(getattr(reference, op), args)
    assert gradgradcheck(getattr(reference, op), args)


@pytest.mark.parametrize("normalization", ["paper", "rms"])
@pytest.mark.parametrize("mask", ["soft", "hard"])
def test_losses_equal_transcription(mask, normalization):
    inputs = make_inputs(3, 7, 5, 3, 9)
    wanted = oracles.alr_terms(*inputs.args("closing_reduction"), 5, normalization)
    loss = alr_layers.alr_loss(
        *inputs.args("closing_reduction"), feature_dim=5, normalization=normalization
    )
    assert_exact(loss, sum(wanted.values()))

    args = (inputs.features, inputs.real_features, inputs.layout, inputs.real_layout)
    wanted = oracles.lvr_terms(*args, mask, normalization)
    perception = alr_layers.perception_refinement_loss(
        *args, mask=mask, normalization=normalization
    )
    assert_exact(perception, wanted["perception"])
    assert_exact(alr_layers.style_refinement_loss(*args, mask=mask), wanted["style"])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_alr_loss_module_equals_padded_formula(shape):
    """E7-E9 with every channel of the padding carried through φ."""
    batch, words, channels, height, width = shape
    inputs = make_inputs(*shape)
    loss = alr_layers.ALRLoss(channels, max_words=max(words, 3), gamma=0.3).double()
    padded = max(channels, words, 3)
    easy, hard = oracles.alr_residual(inputs.layout, inputs.real_layout, 0.3)

    def filled(values: Tensor) -> Tensor:
        rest = values.new_zeros(batch, padded - values.shape[1], height, width)
        return torch.cat([values, rest], 1)

    def phi(stack: torch.nn.Module, gated: Tensor) -> Tensor:
        hidden = torch.nn.functional.leaky_relu(stack.first(gated), 0.2)
        return stack.second(hidden).sigmoid()

    h = filled(inputs.real_features)
    alpha, beta = phi(loss.phi_easy, filled(easy) * h), phi(loss.phi_hard, filled(hard) * h)
    wanted = oracles.alr_terms(easy, hard, alpha, beta, channels, "paper")
    terms = loss.terms(inputs.layout, inputs.real_layout, inputs.real_features)
    assert terms.keys() == wanted.keys()
    for name, value in terms.items():
        assert_exact(value, wanted[name])
    total = loss(inputs.layout, inputs.real_layout, inputs.real_features)
    assert_exact(total, sum(wanted.values()))


def test_live_channels_alone_change_nothing():
    phi = alr_layers.ALRLoss(16).double().phi_hard
    live = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    padded = torch.cat([live, live.new_zeros(2, 11, 4, 6)], 1)
    assert_exact(phi(live), phi(padded), roundings=4)
    with pytest.raises(ValueError, match="17 channels, expected at most K = 16"):
        phi(torch.zeros(1, 17, 4, 4).double())


def test_module_projects_words_then_matches():
    module = alr_layers.ALRModule(5, 6).double()
    inputs = make_inputs(3, 7, 5, 3, 4)
    words = torch.randn(3, 6, 7, dtype=torch.float64)
    projected = torch.einsum("dc,bct->bdt", module.word_projection.weight[:, :, 0], words)
    context, layout = module(inputs.features, words, inputs.lengths)
    wanted = oracles.layout_context(inputs.features, projected, inputs.lengths)
    assert_exact(context, wanted[0])
    assert_exact(layout, wanted[1])
    assert_exact(module.layout(inputs.features, words, inputs.lengths), wanted[1])


def test_layout_and_context_by_plain_loops():
    inputs = make_inputs(2, 4, 3, 2, 3)
    for sample in range(2):
        regions = inputs.features[sample].flatten(1).T.tolist()
        words = inputs.projected_words[sample].T.tolist()
        theta = oracles.scalar_layout(regions, words, int(inputs.lengths[sample]))
        context, layout = reference.layout_context(*inputs.args("layout_context"))
        assert_exact(layout[sample].flatten(1).T, torch.tensor(theta, dtype=torch.float64))
        wanted = torch.tensor(oracles.scalar_context(theta, words), dtype=torch.float64)
        assert_exact(context[sample].flatten(1).T, wanted)


def by_hand() -> tuple[Tensor, Tensor]:
    """Two words on a 1 x 2 grid: Θ = [[3/4, 1/4], [1/4, 3/4]], Θ* = [[1/2, 1/4], [1/2, 3/4]]."""
    layout = torch.tensor([[[[0.75, 0.25]], [[0.25, 0.75]]]])
    real = torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]])
    return layout, real


def test_layout_by_hand():
    # Two channels, two words, scores log 3 against 0, and the other way round.
    features = torch.tensor([[[[math.log(3), 0.0]], [[0.0, math.log(3)]]]])
    words = torch.eye(2)[None]
    context, layout = reference.layout_context(features, words, torch.tensor([2]))
    torch.testing.assert_close(layout, by_hand()[0])
    torch.testing.assert_close(context, by_hand()[0])


def test_alr_by_hand():
    layout, real = by_hand()
    # R is 1/4 at region 0, and 0 at region 1.
    easy, hard = alr_layers.alr_residual(layout, real, gamma=0.2)
    assert easy.flatten().tolist() == [0, 0, 0, 0]
    assert hard.flatten().tolist() == [0.25, 0, 0.25, 0]
    easy, hard = alr_layers.alr_residual(layout, real, gamma=0.25)
    assert hard.flatten().tolist() == [0.25, 0, 0.25, 0], "R = γ is hard"
    alpha, beta = torch.full((1, 2, 1, 2), 0.75), torch.full((1, 2, 1, 2), 0.5)
    alpha[0, 1, 0, 1] = 1.0
    # ‖β R_hard‖ = √(2 (1/8)²), max α - min β = 1/2, N D = 4.
    wanted = (math.sqrt(2) / 8 + math.log1p(math.exp(0.5))) / 4
    loss = alr_layers.alr_loss(easy, hard, alpha, beta, feature_dim=2)
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    wanted = math.sqrt(2) / 8 / 2 + math.log1p(math.exp(0.5))
    loss = alr_layers.alr_loss(easy, hard, alpha, beta, feature_dim=2, normalization="rms")
    assert loss.item() == pytest.approx(wanted, rel=1e-6)


def test_lvr_by_hand():
    layout, real = by_hand()
    assert alr_layers.layout_mask(layout).flatten().tolist() == [0.75, 0.75]
    assert alr_layers.layout_mask(real).flatten().tolist() == [0.5, 0.75]
    assert alr_layers.layout_mask(real, mask="hard").flatten().tolist() == [0, 1]
    features = torch.tensor([[[[4.0, 0.0]], [[0.0, 4.0]]]])
    # M h = 3 I and M* h* = diag(2, 3): they differ by 1 in one entry, the Gram matrices by 9 - 4.
    args = (features, features, layout, real)
    assert alr_layers.perception_refinement_loss(*args).item() == pytest.approx(1 / 4)
    rms = alr_layers.perception_refinement_loss(*args, normalization="rms")
    assert rms.item() == pytest.approx(1 / 2)
    assert alr_layers.style_refinement_loss(*args).item() == pytest.approx(5 / 4)


def test_tied_words_share_the_gradient():
    layout = torch.full((1, 4, 1, 1), 0.25, requires_grad=True)
    alr_layers.layout_mask(layout).sum().backward()
    assert layout.grad.flatten().tolist() == [0.25] * 4
