"""Extreme but legal input: every loss and every gradient stays finite."""

import pytest
import torch
from torch import Tensor

import alr_layers
from tests.support.inputs import SHAPES, Inputs, make_inputs


def assert_finite_training_step(
    inputs: Inputs, *, gamma: float = 0.1, mask: str = "soft", normalization: str = "paper"
) -> dict[str, Tensor]:
    """Runs E1-E12 forward and backward; returns the terms."""
    channels, words = inputs.features.shape[1], inputs.layout.shape[1]
    alr = alr_layers.ALRLoss(
        channels, max_words=words, gamma=gamma, normalization=normalization, detach_target=False
    ).to(inputs.features.dtype)
    lvr = alr_layers.LVRLoss(mask=mask, normalization=normalization, detach_target=False)
    leaves = {
        name: getattr(inputs, name).clone().requires_grad_()
        for name in ("features", "real_features", "layout", "real_layout")
    }
    terms = alr.terms(leaves["layout"], leaves["real_layout"], leaves["real_features"])
    terms |= lvr.terms(*leaves.values())
    assert all(value.isfinite() for value in terms.values())
    grads = torch.autograd.grad(
        sum(terms.values()),
        [*leaves.values(), *alr.parameters()],
        create_graph=True,
        materialize_grads=True,
    )
    assert all(grad.isfinite().all() for grad in grads)
    curvature = sum(grad.square().sum() for grad in grads)
    for second in torch.autograd.grad(curvature, leaves.values(), materialize_grads=True):
        assert second.isfinite().all()
    return {name: value.detach() for name, value in terms.items()}


@pytest.mark.parametrize("normalization", ["paper", "rms"])
@pytest.mark.parametrize("mask", ["soft", "hard"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_any_shape(shape, mask, normalization):
    assert_finite_training_step(make_inputs(*shape), mask=mask, normalization=normalization)


def test_nothing_hard():
    inputs = make_inputs(2, 4, 5, 3, 3)
    close = Inputs(**{**vars(inputs), "real_layout": inputs.layout * 0.99})
    terms = assert_finite_training_step(close)
    assert terms["hard"] == 0
    assert terms["easy"] > 0


def test_nothing_easy():
    inputs = make_inputs(2, 4, 5, 3, 3)
    apart = Inputs(**{**vars(inputs), "real_layout": inputs.layout + 0.5})
    terms = assert_finite_training_step(apart)
    assert terms["easy"] == 0
    assert terms["hard"] > 0


def test_real_is_fake():
    inputs = make_inputs(2, 4, 5, 3, 3)
    same = {"real_layout": inputs.layout, "real_features": inputs.features}
    terms = assert_finite_training_step(Inputs(**{**vars(inputs), **same}))
    for name in ("easy", "hard", "perception", "style"):
        assert terms[name] == 0
    assert terms["order"] > 0


@pytest.mark.parametrize(("gamma", "empty"), [(0.0, "easy"), (1.0, "hard")])
def test_extreme_thresholds(gamma, empty):
    terms = assert_finite_training_step(make_inputs(2, 4, 5, 3, 3), gamma=gamma)
    assert terms[empty] == 0


def test_one_sample_without_hard_elements_beside_one_with():
    inputs = make_inputs(2, 4, 5, 3, 3)
    real = inputs.real_layout.clone()
    real[0] = inputs.layout[0]
    assert assert_finite_training_step(Inputs(**{**vars(inputs), "real_layout": real}))["hard"] > 0


def test_features_of_nothing():
    inputs = make_inputs(2, 4, 5, 3, 3)
    nothing = {"features": inputs.features * 0, "real_features": inputs.features * 0}
    assert_finite_training_step(Inputs(**{**vars(inputs), **nothing}))


def test_large_scores_give_a_sharp_layout():
    inputs = make_inputs(2, 4, 5, 3, 3, dtype=torch.float32)
    features = (inputs.features * 1e6).requires_grad_()
    layout = alr_layers.semantic_similarity(features, inputs.projected_words, inputs.lengths)
    assert torch.allclose(layout.amax(1), torch.ones(()))
    layout.square().sum().backward()
    assert features.grad.isfinite().all()


def test_one_real_word_takes_everything():
    inputs = make_inputs(2, 4, 5, 3, 3)
    ones = torch.ones(2, dtype=torch.int64)
    layout = alr_layers.semantic_similarity(inputs.features, inputs.projected_words, ones)
    assert (layout[:, 0] == 1).all()
    assert (layout[:, 1:] == 0).all()


def test_more_words_than_channels():
    inputs = make_inputs(2, 9, 4, 5, 2)
    with pytest.raises(ValueError, match=r"T = 9 words, more than 4 .*max_words=9"):
        alr_layers.ALRLoss(4).double()(*inputs.args("gated_residual")[:3])
    with pytest.raises(ValueError, match=r"T = 9 words, more than 8 .*max_words=9"):
        alr_layers.ALRLoss(4, max_words=8).double()(*inputs.args("gated_residual")[:3])
    loss = alr_layers.ALRLoss(4, max_words=12).double()
    assert loss.phi_easy(torch.zeros(1, 12, 3, 3).double()).shape == (1, 12, 3, 3)
    assert loss(*inputs.args("gated_residual")[:3]).isfinite()


def test_empty_batch_gives_zero_on_the_graph():
    inputs = make_inputs(2, 4, 5, 3, 3).mapped(lambda values: values[:0])
    layout = inputs.layout.requires_grad_()
    loss = alr_layers.ALRLoss(5).double()(layout, inputs.real_layout, inputs.real_features)
    loss = loss + alr_layers.LVRLoss()(
        inputs.features, inputs.real_features, layout, inputs.real_layout
    )
    assert loss == 0
    loss.backward()
    no_lengths = torch.zeros(0, dtype=torch.int64)
    module = alr_layers.ALRModule(5, 6).double()
    assert module(inputs.features, torch.zeros(0, 6, 4).double(), no_lengths).layout.numel() == 0


@pytest.mark.parametrize("detach", [True, False])
def test_targets_receive_gradient_only_on_request(detach):
    inputs = make_inputs(2, 4, 5, 3, 3)
    leaves = [value.requires_grad_() for value in inputs.args("masked_difference")[:4]]
    features, real_features, layout, real_layout = leaves
    loss = alr_layers.ALRLoss(5, detach_target=detach).double()(layout, real_layout, real_features)
    loss = loss + alr_layers.LVRLoss(detach_target=detach)(*leaves)
    loss.backward()
    assert layout.grad.abs().sum() > 0
    assert features.grad.abs().sum() > 0
    for target in (real_layout, real_features):
        assert (target.grad is None) == detach
