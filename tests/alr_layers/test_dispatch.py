"""Which backend an op takes, why, and how that is said."""

import importlib
import logging
import os
import re
import subprocess
import sys

import pytest
import torch

import alr_layers
from alr_layers.kernels import dispatch, reference, requirements
from tests.support.inputs import ARGUMENTS, make_inputs


@pytest.fixture
def args():
    return make_inputs(2, 5, 8, 4, 6, dtype=torch.float32).args("semantic_similarity")


class FakeKernels:
    """Stands in for a file of fused kernels; `reasons` is what there is to say against it."""

    def __init__(self):
        self.reasons, self.calls = (), []

    def semantic_similarity(self, *tensors):
        self.calls.append(tensors)
        return reference.semantic_similarity(*tensors)


@pytest.fixture
def fake_kernels(monkeypatch):
    kernels = FakeKernels()
    monkeypatch.setattr(dispatch, "_fused_module", lambda name: kernels)
    monkeypatch.setattr(requirements, "obstacles", lambda op, *tensors: kernels.reasons)
    return kernels


def test_the_table_names_every_op_of_the_reference():
    assert {op: requirements.arguments(op) for op in requirements.OPS} == ARGUMENTS


def test_auto_takes_fused_exactly_where_nothing_objects(args, fake_kernels):
    alr_layers.semantic_similarity(*args)
    assert len(fake_kernels.calls) == 1
    assert alr_layers.explain("semantic_similarity", *args) == "semantic_similarity: fused (auto)"
    fake_kernels.reasons = ("T = 5 is odd",)
    alr_layers.semantic_similarity(*args)
    assert len(fake_kernels.calls) == 1
    wanted = "semantic_similarity: reference (auto; not fused: T = 5 is odd)"
    assert alr_layers.explain("semantic_similarity", *args) == wanted


@pytest.mark.parametrize(("dim", "words"), [(32, 18), (128, 64), (256, 128)])
def test_auto_takes_the_float32_layout_kernels_at_any_size(dim, words, fake_kernels):
    args = make_inputs(1, words, dim, 2, 2, dtype=torch.float32).args("semantic_similarity")
    assert alr_layers.explain("semantic_similarity", *args) == "semantic_similarity: fused (auto)"


def test_fused_by_name_never_falls_back(args, fake_kernels):
    fake_kernels.reasons = ("T = 5 is odd", "no CUDA device: tensors are on cpu")
    with pytest.raises(alr_layers.FusedUnavailableError) as error:
        alr_layers.semantic_similarity(*args, backend="fused")
    assert all(reason in str(error.value) for reason in fake_kernels.reasons)
    assert 'backend="reference"' in str(error.value)
    with alr_layers.use_backend("fused"):
        assert "unavailable" in alr_layers.explain("semantic_similarity", *args)
        with pytest.raises(alr_layers.FusedUnavailableError):
            alr_layers.semantic_similarity(*args)
    assert not fake_kernels.calls


def test_an_error_inside_a_kernel_is_not_caught(args, fake_kernels):
    def broken(*tensors):
        raise RuntimeError("launch failed")

    fake_kernels.semantic_similarity = broken
    with pytest.raises(RuntimeError, match="launch failed"):
        alr_layers.semantic_similarity(*args)


def test_order_of_precedence(args, fake_kernels):
    with alr_layers.use_backend("reference"):
        alr_layers.semantic_similarity(*args)
        assert not fake_kernels.calls, "use_backend goes before auto"
        alr_layers.semantic_similarity(*args, backend="fused")
        assert len(fake_kernels.calls) == 1, "the call's argument goes before use_backend"
        with alr_layers.use_backend("fused"):
            alr_layers.semantic_similarity(*args)
            assert len(fake_kernels.calls) == 2
        alr_layers.semantic_similarity(*args)
        assert len(fake_kernels.calls) == 2, "back at the outer choice"
    alr_layers.semantic_similarity(*args)
    assert len(fake_kernels.calls) == 3


def test_use_backend_is_restored_after_an_error():
    with pytest.raises(KeyError), alr_layers.use_backend("reference"):
        raise KeyError
    assert dispatch._selected == "auto"


def test_use_backend_as_a_plain_call(args, fake_kernels):
    alr_layers.use_backend("reference")
    alr_layers.semantic_similarity(*args)
    assert not fake_kernels.calls
    alr_layers.use_backend("auto")
    alr_layers.semantic_similarity(*args)
    assert len(fake_kernels.calls) == 1


@pytest.mark.parametrize("op", requirements.OPS)
def test_without_triton_every_op_says_so(op, monkeypatch):
    monkeypatch.setattr(requirements, "TRITON", None)
    tensors = [
        value
        for value in make_inputs(2, 5, 8, 4, 6, dtype=torch.float32).args(op)
        if isinstance(value, torch.Tensor)
    ]
    with pytest.raises(alr_layers.FusedUnavailableError) as error:
        dispatch.resolve(op, tuple(tensors), "fused")
    assert "triton is not installed" in str(error.value)
    assert "no CUDA device: tensors are on cpu" in str(error.value)
    assert dispatch.resolve(op, tuple(tensors)) is getattr(reference, op)


@pytest.mark.parametrize("version", ["2.3.1", "3.2.0", "3.3.1", "3.4.0", "3.5.1+git1", "unknown"])
def test_a_triton_too_old_is_a_reason_and_auto_goes_on(version, args, monkeypatch):
    monkeypatch.setattr(requirements, "TRITON", version)
    # Even where the device is right: the interpreter, which needs none, stands in for a GPU.
    monkeypatch.setattr(requirements, "INTERPRETED", True)
    monkeypatch.setattr(dispatch, "_fused_module", lambda name: pytest.fail("kernels imported"))
    reason = f"triton {version} is installed, 3.6 or newer is needed"
    assert f"not fused: {reason}" in alr_layers.explain("semantic_similarity", *args)
    assert torch.equal(alr_layers.semantic_similarity(*args), reference.semantic_similarity(*args))
    with pytest.raises(alr_layers.FusedUnavailableError, match=re.escape(reason)):
        alr_layers.semantic_similarity(*args, backend="fused")


@pytest.mark.parametrize("version", ["3.6.0", "3.10.0", "4.0.0+git5a6b"])
def test_a_triton_new_enough_is_no_reason(version):
    assert requirements.triton_obstacle(version) is None


def test_the_version_is_read_without_importing_triton():
    if requirements.TRITON is None:
        pytest.skip("triton is not installed")
    assert importlib.import_module("triton").__version__ == requirements.TRITON


def test_triton_is_imported_when_a_tensor_asks_for_it_and_no_sooner():
    pytest.importorskip("triton")
    program = """
import sys, torch
before = set(sys.modules)
import alr_layers
alr_layers.explain("layout_context")
module, words, lengths = alr_layers.ALRModule(8, 7), torch.zeros(2, 7, 5), torch.tensor([5, 2])
with alr_layers.use_backend("reference"):
    module(torch.zeros(2, 8, 4, 4), words, lengths)
added = {name.split(".")[0] for name in set(sys.modules) - before}
assert "triton" not in added, "triton came with the import"
assert "alr_layers.kernels.layout" not in sys.modules
compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
compiled(torch.zeros(2, 8, 4, 4), words, lengths)
assert "alr_layers.kernels.layout" in sys.modules, "a compiler's first call did not load it"
print(alr_layers.explain("layout_context", torch.zeros(2, 8, 4, 4)))
"""
    done = run("-c", program, backend="auto", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "layout_context: fused (auto)\n"


def test_context_from_a_layout_is_never_fused_alone():
    inputs = make_inputs(2, 5, 8, 4, 6)
    with pytest.raises(alr_layers.FusedUnavailableError, match="this op has no fused kernels"):
        alr_layers.text_vision_matrix(*inputs.args("text_vision_matrix"), backend="fused")


@pytest.mark.parametrize("choose", [alr_layers.use_backend, dispatch.check_backend])
def test_unknown_backend(choose):
    with pytest.raises(ValueError, match="backend is 'cuda', expected one of 'auto'"):
        choose("cuda")


def test_unknown_op(args):
    for call in (lambda: alr_layers.explain("alr"), lambda: dispatch.resolve("alr", args)):
        with pytest.raises(ValueError, match="op is 'alr', expected one of semantic_similarity"):
            call()


def test_each_path_is_logged_once(args, monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "_announced", set())
    with caplog.at_level(logging.INFO, "alr_layers"):
        for _ in range(3):
            alr_layers.semantic_similarity(*args, backend="reference")
    wanted = ["semantic_similarity runs on the reference backend"]
    assert [record.getMessage() for record in caplog.records] == wanted


def run(*arguments: str, backend: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, dispatch.ENVIRONMENT_VARIABLE: backend, **more}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_environment_and_report():
    done = run("-m", "alr_layers", backend="reference")
    assert done.returncode == 0, done.stderr
    assert f"torch      {torch.__version__}" in done.stdout
    for op in requirements.OPS:
        assert f"{op}: reference (asked for by name)" in done.stdout


def test_wrong_environment_is_an_error():
    done = run("-c", "import alr_layers", backend="fast")
    assert "ValueError: ALR_LAYERS_BACKEND is 'fast', expected one of 'auto'" in done.stderr
