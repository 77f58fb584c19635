import pytest
import torch

import alr_layers
from alr_layers.kernels import dispatch
from benchmarks.saved_tensors import SavedTensors
from tests.alr_layers.kernel_support import FUSED, fused, inputs, run

SHAPE = (2, 5, 4, 3, 4)


@pytest.mark.parametrize("arrangement", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("op", FUSED)
def test_opcheck(op, arrangement):
    tensors, rest = inputs(op, SHAPE, torch.float32, arrangement=arrangement)
    rest = tuple(value == "soft" if isinstance(value, str) else value for value in rest)
    name = op
    fused(op)  # registers the ops, which nothing has asked for yet
    if "closing" in op:
        name, rest = "closing_numbers", (*(rest or (0.0,)), op.startswith("layout"))
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    registered = getattr(torch.ops.alr_layers, name).default
    torch.library.opcheck(registered, (*leaves, *rest))


@pytest.mark.parametrize("op", FUSED)
def test_second_order_is_refused_by_name(op):
    tensors, rest = inputs(op, SHAPE, torch.float32)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    outputs = fused(op)(*leaves, *rest)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    total = sum(output.square().sum() for output in outputs)
    grads = torch.autograd.grad(total, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match=r'alr_layers::.*backend="reference"'):
        sum(grad.sum() for grad in grads).backward()


def test_the_whole_path_compiles_in_one_graph_for_any_length():
    def path(h, real, words, lengths):
        context, layout = module(h, words, lengths)
        real_layout = module.layout(real, words, lengths).detach()
        return alr(layout, real_layout, real) + lvr(h, real, layout, real_layout), context

    module = alr_layers.ALRModule(8, 7, backend="fused")
    alr = alr_layers.ALRLoss(8, max_words=8, backend="fused")
    lvr = alr_layers.LVRLoss(backend="fused")
    graphs = []

    def count(graph, example):
        graphs.append(graph)
        return graph

    compiled = torch.compile(path, fullgraph=True, dynamic=True, backend=count)
    for batch, count_words in ((2, 5), (3, 8), (4, 6)):
        h, real = torch.randn(batch, 8, 4, 4), torch.randn(batch, 8, 4, 4)
        arguments = (
            h.requires_grad_(),
            real,
            torch.randn(batch, 7, count_words),
            torch.randint(1, count_words + 1, (batch,)),
        )
        loss, context = compiled(*arguments)
        expected, expected_context = path(*arguments)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(context, expected_context)
        loss.backward()
    assert len(graphs) == 1


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
def test_a_compiled_loss_keeps_what_phi_reads_and_gives_alone_as_well(autocast):
    loss = alr_layers.ALRLoss(8, backend="fused")
    (layout, real, features), _ = inputs("gated_residual", (2, 8, 5, 4, 6), torch.float32)
    layout.requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results, kept = [], []
    for form in (loss, compiled):
        with (
            SavedTensors([layout, real, features, *loss.parameters()]) as saved,
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        ):
            total = form(layout, real, features)
        kept.append(saved.live)
        results.append((total, *torch.autograd.grad(total, [layout, *loss.parameters()])))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-2 if autocast else 1e-5, atol=1e-6)
    maps = 2 * (5 + 8) * layout[:, 0].numel() * (2 if autocast else 4)
    # And the four numbers of every sample, with their ties.
    assert all(0 <= held - maps < 100 for held in kept)


@pytest.mark.parametrize("op", FUSED)
def test_compiled_gradients(op):
    tensors, rest = inputs(op, SHAPE, torch.float32)
    compiled = torch.compile(fused(op), fullgraph=True, backend="aot_eager")
    plain = run(fused(op), tensors, rest)
    traced = run(compiled, tensors, rest, plain[1])
    for x, y in zip((*plain[0], *plain[2]), (*traced[0], *traced[2]), strict=True):
        torch.testing.assert_close(x, y)


def test_auto_takes_the_kernels_where_they_run():
    tensors, rest = inputs("layout_context", SHAPE, torch.float32)
    assert dispatch.explain("layout_context", *tensors, *rest) == "layout_context: fused (auto)"
    wide = [tensor.double() for tensor in tensors]
    assert "float64" in dispatch.explain("layout_context", *wide, *rest)


@pytest.mark.parametrize("op", FUSED)
def test_results_lie_in_memory_as_what_they_belong_to(op):
    """A φ that runs channels-last gets its input, and gives its gradient, without a copy."""
    tensors, rest = inputs(op, (2, 6, 4, 3, 5), torch.float32, arrangement="channels_last")
    outputs, _, grads = run(fused(op), tensors, rest)
    for tensor, grad in zip(tensors, grads, strict=True):
        if tensor.dim() == 4:
            assert grad.stride() == tensor.stride()
    if op == "gated_residual":
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in outputs)
