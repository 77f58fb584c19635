"""dtype rules, autocast, and any arrangement of the same numbers in memory."""

import pytest
import torch
from torch import Tensor

import alr_layers
from alr_layers import functional
from alr_layers.kernels import reference
from alr_layers.kernels.dispatch import implementation
from benchmarks.saved_tensors import SavedTensors
from tests.support import oracles
from tests.support.inputs import ARGUMENTS, SHAPES, make_inputs
from tests.support.tolerances import assert_exact

HALVES = [torch.bfloat16, torch.float16]


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("op", ARGUMENTS)
def test_every_op_rounds_once(op, dtype):
    """Half precision in, float32 inside: the result is off by its own rounding, no more."""
    args = make_inputs(*SHAPES["odd and oblong"], dtype=dtype).args(op)
    ours, exact = getattr(reference, op)(*args), getattr(oracles, op)(*args)
    for actual, wanted in zip(outputs(ours), outputs(exact), strict=True):
        assert_exact(actual, wanted, roundings=64 if actual.dtype == torch.float32 else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
def test_tensors_keep_their_dtype_and_losses_are_wide(dtype):
    inputs = make_inputs(2, 5, 8, 4, 4, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert alr_layers.semantic_similarity(*inputs.args("semantic_similarity")).dtype == dtype
    assert alr_layers.text_vision_matrix(*inputs.args("text_vision_matrix")).dtype == dtype
    assert alr_layers.layout_mask(inputs.layout).dtype == dtype
    easy, hard = alr_layers.alr_residual(inputs.layout, inputs.real_layout, gamma=0.1)
    assert easy.dtype == hard.dtype == dtype
    loss = alr_layers.alr_loss(*inputs.args("closing_reduction"), feature_dim=8)
    assert loss.dtype == wide
    context, layout = alr_layers.ALRModule(8, 6)(
        inputs.features, torch.randn(2, 6, 5).to(dtype), inputs.lengths
    )
    assert context.dtype == layout.dtype == dtype
    terms = alr_layers.ALRLoss(8).terms(*inputs.args("gated_residual")[:3])
    terms |= alr_layers.LVRLoss().terms(*inputs.args("masked_difference")[:4])
    assert {value.dtype for value in terms.values()} == {wide}


@pytest.mark.parametrize("mixed", ["features", "real_features", "layout", "real_layout"])
def test_mixed_dtypes_are_promoted_and_gradients_are_not(mixed):
    inputs = make_inputs(2, 5, 8, 4, 4, dtype=torch.float32)
    leaves = {
        name: getattr(inputs, name).to(torch.bfloat16 if name == mixed else torch.float32)
        for name in ("features", "real_features", "layout", "real_layout")
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    loss = alr_layers.LVRLoss(detach_target=False)(*leaves.values())
    loss = loss + alr_layers.ALRLoss(8, detach_target=False)(
        leaves["layout"], leaves["real_layout"], leaves["real_features"]
    )
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves.values())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_autocast_never_rounds_a_reduction(dtype):
    """With float32 input, autocast changes the projection and φ at most, never a sum."""
    inputs = make_inputs(2, 5, 8, 16, 16, dtype=torch.float32)
    calls = {
        op: lambda op=op: outputs(getattr(reference, op)(*inputs.args(op))) for op in ARGUMENTS
    }
    for op, call in calls.items():
        plain = call()
        with torch.autocast("cpu", dtype=dtype):
            for ours, wanted in zip(call(), plain, strict=True):
                assert torch.equal(ours, wanted), op
    with torch.autocast("cpu", dtype=dtype):
        style = alr_layers.style_refinement_loss(*inputs.args("masked_difference")[:4])
    assert style == alr_layers.style_refinement_loss(*inputs.args("masked_difference")[:4])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_training_step_under_autocast(dtype):
    inputs = make_inputs(2, 5, 8, 4, 4, dtype=torch.float32)
    module, loss = alr_layers.ALRModule(8, 6), alr_layers.ALRLoss(8)
    words = torch.randn(2, 6, 5)
    features = inputs.features.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        context, layout = module(features, words, inputs.lengths)
        real_layout = module.layout(inputs.real_features, words, inputs.lengths)
        total = loss(layout, real_layout, inputs.real_features)
        total = total + alr_layers.LVRLoss()(features, inputs.real_features, layout, real_layout)
    assert context.dtype == layout.dtype == dtype
    assert total.dtype == torch.float32
    total.backward()
    assert features.grad.dtype == dtype
    for parameter in (*module.parameters(), *loss.parameters()):
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_phi_keeps_its_input_one_inner_map_and_its_output_alone():
    """And in half precision α and β are kept as φ computes them, not once more in float32."""
    words, dim, size = 5, 8, 6
    for dtype in (torch.float32, torch.bfloat16):
        loss = alr_layers.ALRLoss(dim).to("meta", dtype)
        gated = torch.empty(2, words, size, size, device="meta", dtype=dtype)
        with SavedTensors(loss.parameters()) as saved:
            weights = loss.phi_easy(gated)
        assert saved.live == (words + 2 * dim) * 2 * size**2 * dtype.itemsize
        del weights
        assert saved.live == 0


def test_closing_is_given_phis_own_dtype(monkeypatch):
    seen = []

    def resolve(op, tensors, backend):
        seen.append((op, [tensor.dtype for tensor in tensors]))
        return implementation(op, "reference")

    monkeypatch.setattr(functional, "resolve", resolve)
    layout, real = (torch.rand(2, 5, 4, 4).softmax(1).requires_grad_() for _ in "ab")
    features, loss = torch.randn(2, 8, 4, 4), alr_layers.ALRLoss(8)
    with torch.autocast("cpu", torch.bfloat16):
        total = loss(layout, real, features)
    wide, half = torch.float32, torch.bfloat16
    assert seen[-1] == ("layout_closing_reduction", [wide, wide, half, half])
    assert total.dtype == wide
    total.backward()
    assert (
        {parameter.grad.dtype for parameter in loss.parameters()} == {layout.grad.dtype} == {wide}
    )


def rearranged(values: Tensor, how: str) -> Tensor:
    """The same numbers, laid out differently."""
    if how == "channels_last":
        return values.to(memory_format=torch.channels_last) if values.dim() == 4 else values
    if how == "transposed":
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "sliced":
        spacious = torch.full((*values.shape[:-1], 2 * values.shape[-1]), float("nan"))
        spacious = spacious.to(values.dtype)
        spacious[..., ::2] = values
        return spacious[..., ::2]
    return values[:1].expand_as(values)


@pytest.mark.parametrize("how", ["channels_last", "transposed", "sliced", "expanded"])
@pytest.mark.parametrize("op", ARGUMENTS)
def test_memory_layout_does_not_matter(op, how):
    inputs = make_inputs(3, 7, 5, 3, 9)
    if how == "expanded":
        inputs = inputs.mapped(lambda values: values[:1].expand_as(values).contiguous())
    odd = inputs.mapped(lambda values: rearranged(values, how))
    before = [value.clone() for value in odd.args(op) if isinstance(value, Tensor)]
    results = outputs(getattr(reference, op)(*odd.args(op)))
    for ours, wanted in zip(
        results, outputs(getattr(reference, op)(*inputs.args(op))), strict=True
    ):
        assert_exact(ours, wanted)
    after = [value for value in odd.args(op) if isinstance(value, Tensor)]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True)), "input overwritten"


@pytest.mark.parametrize("how", ["channels_last", "transposed", "sliced", "expanded"])
def test_modules_take_any_memory_layout(how):
    inputs = make_inputs(3, 5, 8, 4, 6, dtype=torch.float32)
    if how == "expanded":
        inputs = inputs.mapped(lambda values: values[:1].expand_as(values).contiguous())
    odd = inputs.mapped(lambda values: rearranged(values, how))
    module, alr, lvr = alr_layers.ALRModule(8, 6), alr_layers.ALRLoss(8), alr_layers.LVRLoss()
    words = torch.randn(3, 6, 5)
    for given in (inputs, odd):
        features = given.features.detach().requires_grad_()
        context, layout = module(features, words, given.lengths)
        loss = alr(layout, given.real_layout, given.real_features)
        loss = loss + lvr(features, given.real_features, layout, given.real_layout)
        (loss + context.square().mean()).backward()
        given.features.gradient = features.grad
    torch.testing.assert_close(odd.features.gradient, inputs.features.gradient)
