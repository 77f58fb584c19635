"""torch.compile in one graph: values, gradients, changing sizes, switching backends."""

import pytest
import torch
from torch import Tensor, nn

import alr_layers
from tests.support.inputs import make_inputs
from tests.support.tolerances import assert_exact


class TrainingStep(nn.Module):
    """Everything of E1-E12 in one forward."""

    def __init__(self, mask: str = "soft") -> None:
        super().__init__()
        self.module = alr_layers.ALRModule(8, 6)
        head = nn.Conv2d(8, 3, 1)
        self.refinement = alr_layers.LayoutRefinement(
            self.module,
            decode=lambda features, words, lengths: head(features),
            lvr=alr_layers.LVRLoss(mask=mask, normalization="rms"),
        )

    def forward(self, features: Tensor, images: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        context, layout = self.module(features, words, lengths)
        terms = self.refinement(features, layout, images, words, lengths)
        return context.square().mean() + sum(terms.values())


def step_inputs(batch: int = 2, words: int = 5) -> tuple[Tensor, ...]:
    inputs = make_inputs(batch, words, 8, 4, 6, dtype=torch.float32)
    images, text = torch.randn(batch, 3, 4, 6).tanh(), torch.randn(batch, 6, words)
    return inputs.features.requires_grad_(), images, text, inputs.lengths


def assert_same_step(compiled: nn.Module, step: nn.Module, args: tuple[Tensor, ...]) -> None:
    leaves = [args[0], *step.parameters()]
    ours, wanted = compiled(*args), step(*args)
    assert_exact(ours, wanted)
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(wanted, leaves), strict=True)
    for actual, expected in pairs:
        assert_exact(actual, expected, roundings=256)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("mask", ["soft", "hard"])
def test_whole_step_is_one_graph(mask):
    step = TrainingStep(mask)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_same_step(compiled, step, step_inputs())


def test_batch_and_words_may_change():
    step = TrainingStep()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, words in ((2, 5), (3, 7)):
        assert_same_step(compiled, step, step_inputs(batch, words))


def test_under_autocast():
    step = TrainingStep()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    args = step_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, wanted = compiled(*args), step(*args)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, wanted, rtol=1e-2, atol=1e-3)


def test_backend_may_be_switched_between_and_inside_compiled_calls():
    inputs = make_inputs(2, 5, 8, 4, 6, dtype=torch.float32)
    args = inputs.args("semantic_similarity")
    compiled = torch.compile(alr_layers.semantic_similarity, fullgraph=True, backend="aot_eager")
    wanted = alr_layers.semantic_similarity(*args)
    assert_exact(compiled(*args), wanted)
    with alr_layers.use_backend("fused"), pytest.raises(Exception, match="cannot run on the fused"):
        compiled(*args)
    with alr_layers.use_backend("reference"):
        assert_exact(compiled(*args), wanted)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def chosen_inside(features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        with alr_layers.use_backend("reference"):
            return alr_layers.semantic_similarity(features, words, lengths)

    assert_exact(chosen_inside(*args), wanted)
    assert alr_layers.kernels.dispatch._selected == "auto"
