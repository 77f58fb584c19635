import pytest
import torch

import alr_layers
from alr_layers.kernels.dispatch import implementation
from tests.alr_layers.kernel_support import (
    ARRANGEMENTS,
    FUSED,
    SHAPES,
    assert_parity,
    fused,
    inputs,
    run,
)

LAYOUT_OPS = ("semantic_similarity", "layout_context")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", FUSED)
def test_values_and_gradients(op, shape, dtype):
    assert_parity(op, *inputs(op, shape, dtype))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS[1:])
@pytest.mark.parametrize("op", FUSED)
def test_any_strides(op, arrangement):
    assert_parity(op, *inputs(op, (2, 6, 5, 4, 7), torch.float32, arrangement=arrangement))


@pytest.mark.parametrize("op", ["layout_context", "masked_difference"])
def test_the_largest_sizes(op):
    assert_parity(op, *inputs(op, (1, 256, 128, 3, 11), torch.float32))


def test_hard_masks_have_no_gradient():
    tensors, _ = inputs("masked_difference", (2, 20, 7, 6, 6), torch.float32)
    assert_parity("masked_difference", tensors, ("hard",))


def test_a_uniform_layout_is_seen_whole_by_the_hard_mask():
    h = torch.randn(1, 3, 5, 5)
    layout = torch.full((1, 3, 5, 5), 1 / 3)
    distance, _ = fused("masked_difference")(h, torch.zeros_like(h), layout, layout, "hard")
    torch.testing.assert_close(distance[0], h.norm())


@pytest.mark.parametrize("gamma", [0.0, 1.0], ids=["all hard", "all easy"])
@pytest.mark.parametrize("op", ["gated_residual", "layout_closing_reduction"])
def test_nothing_easy_or_nothing_hard(op, gamma):
    tensors, _ = inputs(op, (2, 4, 6, 5, 5), torch.float32)
    assert_parity(op, tensors, (gamma,))


@pytest.mark.parametrize("op", [op for op in FUSED if op not in LAYOUT_OPS])
def test_mixed_dtypes_keep_their_own(op):
    """As under autocast, where φ and the features are half and the layouts are not."""
    tensors, rest = inputs(op, (1, 8, 5, 4, 4), torch.float32)
    halves = slice(0, 2) if op == "masked_difference" else slice(2, 4)
    tensors[halves] = [tensor.half() for tensor in tensors[halves]]
    outputs, _, grads = run(fused(op), tensors, rest)
    plain, _, plain_grads = run(implementation(op, "reference"), tensors, rest)
    assert [x.dtype for x in outputs] == [x.dtype for x in plain]
    assert [x.dtype for x in grads] == [x.dtype for x in tensors]
    for x, y in zip((*outputs, *grads), (*plain, *plain_grads), strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("op", FUSED)
def test_nan_and_inf_stay_visible(op):
    for position in range(len(inputs(op, SHAPES[0], torch.float32)[0])):
        for poison in (torch.nan, torch.inf):
            tensors, rest = inputs(op, (1, 4, 4, 5, 5), torch.float32)
            if op in ("layout_context", "semantic_similarity"):
                rest = (torch.tensor([4]),)
            tensors[position] = tensors[position].clone()
            tensors[position].flatten()[0] = poison
            outputs, _, _ = run(fused(op), tensors, rest)
            assert not all(x.isfinite().all() for x in outputs), (position, poison)


def test_what_stands_in_padded_words_never_matters():
    (h, words), _ = inputs("layout_context", (2, 4, 6, 3, 3), torch.float32)
    lengths = torch.tensor([2, 6])
    spoilt = words.clone()
    spoilt[0, :, 2:] = torch.nan
    for x, y in zip(
        fused("layout_context")(h, words, lengths),
        fused("layout_context")(h, spoilt, lengths),
        strict=True,
    ):
        assert torch.equal(x, y)


@pytest.mark.parametrize("wanted", [0, 1], ids=["context", "layout"])
def test_one_output_alone_may_be_used(wanted):
    (h, words), rest = inputs("layout_context", (2, 4, 6, 3, 3), torch.float32)
    op = fused("layout_context")
    used = run(lambda *a: op(*a)[wanted], (h, words), rest)
    other = torch.zeros_like(op(h, words, *rest)[1 - wanted])
    upstream = [used[1][0], other] if wanted == 0 else [other, used[1][0]]
    both = run(op, (h, words), rest, upstream)
    for x, y in zip(used[2], both[2], strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
def test_a_loss_with_its_phi_is_that_of_the_reference(autocast):
    """The kernels around φ and φ itself, which keeps less: the loss and every gradient."""
    loss = alr_layers.ALRLoss(8)
    (layout, real, features), _ = inputs("gated_residual", (2, 8, 5, 4, 6), torch.float32)
    layout.requires_grad_()
    results = []
    for backend in ("fused", "reference"):
        loss.backend = backend
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total = loss(layout, real, features)
        results.append((total, *torch.autograd.grad(total, [layout, *loss.parameters()])))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-2 if autocast else 1e-5, atol=1e-6)
