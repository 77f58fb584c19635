import copy

import pytest
import torch

pytest.importorskip("triton")

import alr_layers
from tests.alr_layers.kernel_support import (
    ARRANGEMENTS,
    FUSED,
    SHAPES,
    arranged,
    assert_no_worse,
    assert_parity,
    fused,
    inputs,
    run,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LARGER = (4, 48, 18, 64, 64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, LARGER], ids=str)
@pytest.mark.parametrize("op", FUSED)
def test_values_and_gradients(op, shape, dtype):
    assert_parity(op, *inputs(op, shape, dtype, "cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS[1:])
@pytest.mark.parametrize("op", FUSED)
def test_any_strides(op, arrangement, dtype):
    assert_parity(op, *inputs(op, (2, 32, 18, 12, 20), dtype, "cuda", arrangement))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["layout_context", "masked_difference"])
def test_the_largest_sizes(op, dtype):
    assert_parity(op, *inputs(op, (2, 256, 128, 16, 16), dtype, "cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hard_masks(dtype):
    tensors, _ = inputs("masked_difference", LARGER, dtype, "cuda")
    assert_parity("masked_difference", tensors, ("hard",))


@pytest.fixture
def whole_float32(monkeypatch):
    """Convolutions in float32, not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def phi_and_gradients(phi, gated, upstream, backend):
    gated = gated.detach().requires_grad_()
    weights = phi(gated, backend=backend)
    leaves = [gated, *phi.parameters()]
    return weights, *torch.autograd.grad(weights, leaves, upstream)


@pytest.mark.parametrize("words", [5, 18, 32])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_phi_is_that_of_the_cpu(words, arrangement, whole_float32):
    torch.manual_seed(0)
    phi = alr_layers.ALRLoss(32, max_words=words).phi_hard
    gated, upstream = torch.randn(3, words, 20, 12), torch.randn(3, 32, 20, 12)
    gated = arranged(gated, arrangement)
    device_phi = copy.deepcopy(phi).cuda()
    moved = arranged(gated.cuda(), arrangement), upstream.cuda()
    plain = phi_and_gradients(device_phi, *moved, "reference")
    found = phi_and_gradients(device_phi, *moved, "fused")
    exact = phi_and_gradients(phi.double(), gated.double(), upstream.double(), "reference")
    for index, (x, y, z) in enumerate(zip(found, plain, exact, strict=True)):
        torch.testing.assert_close(x.cpu().double(), z, rtol=1e-4, atol=1e-3)
        assert_no_worse(f"phi {index}", x.cpu(), y.cpu(), z)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_phi_under_autocast_is_that_of_the_reference(dtype):
    torch.manual_seed(0)
    phi = alr_layers.ALRLoss(32).phi_easy.cuda()
    gated, upstream = (torch.randn(2, size, 16, 16, device="cuda") for size in (18, 32))
    with torch.autocast("cuda", dtype):
        found, plain = (
            phi_and_gradients(phi, gated, upstream.to(dtype), backend)
            for backend in ("fused", "reference")
        )
    for x, y in zip(found, plain, strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=2e-2, atol=2e-2)


def test_phi_leaves_its_inner_map_out_of_the_devices_memory():
    phi = alr_layers.ALRLoss(32).phi_easy.cuda()
    gated = torch.randn(4, 18, 64, 64, device="cuda", requires_grad=True)
    held = {}
    for backend in ("reference", "fused"):
        before = torch.cuda.memory_allocated()
        weights = phi(gated, backend=backend)
        held[backend] = (torch.cuda.memory_allocated() - before) / weights.nbytes
        del weights
    assert held["fused"] == pytest.approx(1, abs=0.1)
    assert held["reference"] == pytest.approx(2, abs=0.1)


def path_step():
    """A training step of the whole path: (step, its parameters)."""
    torch.manual_seed(0)
    module = alr_layers.ALRModule(32, 40, backend="fused").cuda()
    alr = alr_layers.ALRLoss(32, max_words=18, backend="fused").cuda()
    lvr = alr_layers.LVRLoss(backend="fused")
    h, real = (torch.randn(2, 32, 16, 16, device="cuda") for _ in "ab")
    words, lengths = torch.randn(2, 40, 18, device="cuda"), torch.tensor([5, 18], device="cuda")
    parameters = [*module.parameters(), *alr.parameters()]

    def step():
        _, layout = module(h, words, lengths)
        real_layout = module.layout(real, words, lengths)
        loss = alr(layout, real_layout, real) + lvr(h, real, layout, real_layout)
        return loss, *torch.autograd.grad(loss, parameters)

    return step


def test_a_captured_step_replays():
    step = path_step()
    expected = step()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    for x, y in zip(captured, expected, strict=True):
        torch.testing.assert_close(x, y)


def test_a_compiled_step_agrees():
    step = path_step()
    for x, y in zip(torch.compile(step, fullgraph=False)(), step(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_keeps_losses_wide(dtype):
    step = path_step()
    with torch.autocast("cuda", dtype):
        assert step()[0].dtype == torch.float32


def test_samples_beyond_two_to_the_31_elements():
    """The last sample of a tensor whose batch stride alone passes 32 bits when multiplied."""
    stride = 2**30
    free, _ = torch.cuda.mem_get_info()
    if free < 3 * stride * 2 + 2**30:
        pytest.skip("needs 8 GB of free GPU memory")
    buffer = torch.empty(2 * stride + 2**20, dtype=torch.float16, device="cuda")
    small = torch.randn(3, 16, 8, 8, device="cuda", dtype=torch.float16)
    far = buffer.as_strided(small.shape, (stride, 64, 8, 1))
    far.copy_(small)
    words = torch.randn(3, 16, 5, device="cuda", dtype=torch.float16)
    lengths = torch.full((3,), 5, device="cuda")
    expected = fused("layout_context")(small, words, lengths)
    for x, y in zip(fused("layout_context")(far, words, lengths), expected, strict=True):
        assert torch.equal(x, y)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("op", FUSED)
def test_launches_on_the_tensors_own_device(op):
    tensors, rest = inputs(op, (2, 8, 5, 6, 6), torch.float32, "cuda:1")
    outputs, _, _ = run(fused(op), tensors, rest)
    assert {output.device.index for output in outputs} == {1}
    assert_parity(op, tensors, rest)
