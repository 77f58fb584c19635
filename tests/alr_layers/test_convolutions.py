"""φ without the map between its convolutions: the same numbers from fewer kept bytes."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import alr_layers
from alr_layers import alr
from alr_layers.kernels.convolutions import convolved_dtype, scores, scores_kept_lean
from benchmarks.saved_tensors import SavedTensors

SHAPE = (2, 5, 8, 6, 4)  # B, L, K, H, W
# torch 2.11's backend "eager", which is for debugging, keeps what the function lets go of.
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
ARGUMENTS = ("gated", "first_weight", "first_bias", "second_weight", "second_bias")


def arguments(shape=SHAPE, dtype=torch.float64, wanted=ARGUMENTS) -> list[Tensor]:
    batch, live, channels, height, width = shape
    torch.manual_seed(0)
    found = (
        torch.randn(batch, live, height, width),
        torch.randn(channels, live, 3, 3),
        torch.randn(channels),
        torch.randn(channels, channels, 3, 3),
        torch.randn(channels),
    )
    return [
        tensor.to(dtype).requires_grad_(name in wanted)
        for name, tensor in zip(ARGUMENTS, found, strict=True)
    ]


def gradients(of, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """The weights that `of` leads to, and the gradients of those tensors that want one."""
    weights = of(*tensors).sigmoid_()
    upstream = torch.linspace(-1, 1, weights.numel(), dtype=weights.dtype).view_as(weights)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    return weights, *torch.autograd.grad(weights, leaves, upstream)


def assert_same(ours, wanted) -> None:
    assert all(torch.equal(x, y) for x, y in zip(ours, wanted, strict=True))


@st.composite
def any_call(draw: st.DrawFn) -> tuple[tuple[int, ...], set[str]]:
    batch, channels, height, width = (draw(st.integers(1, limit)) for limit in (3, 6, 5, 5))
    live = draw(st.integers(1, channels))
    return (batch, live, channels, height, width), draw(
        st.sets(st.sampled_from(ARGUMENTS), min_size=1)
    )


@given(any_call())
def test_values_and_gradients_are_the_plain_ones(call):
    """To the bit, whichever of the arguments want a gradient."""
    shape, wanted = call
    tensors = arguments(shape, wanted=wanted)
    assert_same(gradients(scores_kept_lean, tensors), gradients(scores, tensors))


def test_both_orders_are_right():
    tensors = arguments((1, 2, 3, 3, 2))
    assert gradcheck(scores_kept_lean, tensors)
    assert gradgradcheck(scores_kept_lean, tensors)


def test_a_graph_may_be_gone_through_twice():
    tensors = arguments()
    out = scores_kept_lean(*tensors)
    first = torch.autograd.grad(out.sum(), tensors, retain_graph=True)
    assert_same(torch.autograd.grad(out.sum(), tensors), first)


def test_nothing_but_the_arguments_is_kept():
    tensors = arguments()
    with SavedTensors(tensors) as saved:
        out = scores_kept_lean(*tensors)
    assert saved.peak == 0
    with SavedTensors() as saved:
        out = scores_kept_lean(*tensors)
    assert saved.live == sum(x.untyped_storage().nbytes() for x in tensors)
    del out
    assert saved.live == 0


class Convolutions(TorchDispatchMode):
    """Counts the forward convolutions that run."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.convolution.default
        return function(*args, **(kwargs or {}))


def test_the_first_convolution_alone_is_computed_again():
    tensors = arguments()
    out = scores_kept_lean(*tensors).sum()
    with Convolutions() as convolutions:
        torch.autograd.grad(out, tensors)
    assert convolutions.count == 1


@pytest.mark.parametrize("name", ARGUMENTS[:2])
def test_an_argument_overwritten_before_the_backward_pass_is_refused(name):
    tensors = arguments()
    out = scores_kept_lean(*tensors).sum()
    with torch.no_grad():
        tensors[ARGUMENTS.index(name)].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_in_one_graph_for_any_size_and_keeps_as_little(backend):
    torch._dynamo.reset()
    compiled = torch.compile(scores_kept_lean, fullgraph=True, dynamic=True, backend=backend)
    for shape in (SHAPE, (3, 4, 7, 5, 5)):
        tensors = arguments(shape)
        with SavedTensors(tensors) as saved:
            found = gradients(compiled, tensors)
        if not (OLD and backend == "eager"):
            assert saved.peak == found[0].nbytes, "what the sigmoid keeps"
        for x, y in zip(found, gradients(scores, tensors), strict=True):
            torch.testing.assert_close(x, y)
    torch._dynamo.reset()


@pytest.fixture
def asked(monkeypatch) -> Iterator[list]:
    """φ takes the fused form whatever the device; which backends it asked for."""
    found: list = []

    def choose(op, tensors, backend):
        found.append(backend)
        return "reference" if backend == "reference" else "fused"

    monkeypatch.setattr(alr, "choose", choose)
    return found


def terms(loss: alr_layers.ALRLoss) -> tuple[Tensor, ...]:
    """The loss and the gradients of φ and of both layouts."""
    torch.manual_seed(1)
    layout, real = (torch.randn(2, 5, 4, 4).softmax(1).requires_grad_() for _ in "ab")
    total = loss(layout, real, torch.randn(2, 8, 4, 4))
    return total, *torch.autograd.grad(total, [layout, *loss.parameters()])


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_a_loss_with_the_lean_form_is_the_same(asked, autocast):
    loss = alr_layers.ALRLoss(8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        lean = terms(loss)
        loss.backend = "reference"
        plain = terms(loss)
    assert asked == [None, None, "reference", "reference"]
    assert_same(lean, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_phi_keeps_its_input_and_its_output_alone(asked, dtype):
    """And under autocast the input as the convolution reads it, not as it was given."""
    phi = alr_layers.ALRLoss(8).phi_hard
    gated = torch.randn(2, 5, 6, 6)
    half = dtype != torch.float32
    with (
        SavedTensors([*phi.parameters(), gated]) as saved,
        torch.autocast("cpu", dtype, enabled=half),
    ):
        weights = phi(gated)
    turned = gated.to(dtype).nbytes if half else gated.nbytes
    assert weights.dtype == dtype
    assert saved.live == turned + weights.nbytes


def test_phi_in_place_of_ours_takes_its_input_alone():
    loss = alr_layers.ALRLoss(8)
    loss.phi_easy = torch.nn.Conv2d(5, 8, 1)
    assert all(value.isfinite().all() for value in terms(loss))


def test_parameters_are_named_as_ever():
    wanted = [f"{layer}.{name}" for layer in ("first", "second") for name in ("weight", "bias")]
    assert list(alr_layers.ALRLoss(8).phi_easy.state_dict()) == wanted


@pytest.mark.parametrize("weight", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_dtype_of_a_convolution_is_foretold(weight):
    tensors = [tensor.to(weight) for tensor in arguments()]
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert convolved_dtype(tensors[1]) == scores(*tensors).dtype
    assert convolved_dtype(torch.empty(1, device="meta", dtype=weight)) == weight
