import json
from dataclasses import replace
from importlib.metadata import version
from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import ahead
from benchmarks.cases import SHAPES, Shape, op_cases

# Triton 3.6 lays some registers of each thread aside in the float32 layout's backward pass: four at
# 32 channels, eight at 256.
OLD = tuple(map(int, version("triton").split(".")[:2])) < (3, 8)
ASIDE = {"small_layout_backward_kernel": 16, "layout_backward_kernel": 32} if OLD else {}
LARGE = Shape("large", 2, 256, 128, 64)
CASES = {case.name: case for case in op_cases()}
PUBLISHED = {shape.name: replace(shape, batch=2) for shape in SHAPES if shape.size == 128}


@pytest.mark.parametrize("capability", ahead.CAPABILITIES, ids="{0[0]}.{0[1]}".format)
@pytest.mark.parametrize("name", CASES)
def test_every_kernel_compiles_without_spilling(name, capability):
    # bfloat16 has no tensor cores before 8.0, and is float32 arithmetic there, as float16 is.
    dtypes = ahead.DTYPES if capability >= (8, 0) else ahead.DTYPES[:2]
    for shape, dtype in product(PUBLISHED.values(), dtypes):
        found = ahead.figures(CASES[name], shape, dtype, capability)
        assert len(found) >= 2
        for figure in found:
            assert figure.stack <= ASIDE.get(figure.kernel, 0), f"registers spill: {figure}"
            assert figure.shared <= ahead.SHARED_MEMORY[capability], figure


@pytest.mark.parametrize("name", CASES)
def test_half_precision_issues_hardly_longer_than_its_bytes_take(name):
    """By the count of instructions and the data sheet; the floor is of forward or backward."""
    for shape in (shape for shape in SHAPES if shape.size == 128):
        for figure in ahead.figures(CASES[name], shape, torch.bfloat16, (9, 0)):
            # A Gram matrix of 48 channels is computed as one of 64.
            padded = figure.kernel == "difference_forward_kernel" and shape.dim == 48
            assert figure.issue_us <= (1.9 if padded else 1.4) * figure.floor_us, figure


def test_float32_layouts_issue_no_longer_than_their_bytes_take():
    for shape in (shape for shape in SHAPES if shape.size == 128):
        for figure in ahead.figures(CASES["layout_context"], shape, torch.float32, (9, 0)):
            assert figure.issue_us <= figure.floor_us, figure


def test_the_largest_sizes_fit():
    for name in ("layout_context", "masked_difference"):
        for figure in ahead.figures(CASES[name], LARGE, torch.float32, (9, 0)):
            assert figure.stack <= ASIDE.get(figure.kernel, 0), figure
            assert figure.shared <= ahead.SHARED_MEMORY[9, 0], figure


def test_lengths_in_one_bucket_share_a_kernel():
    seen = set()
    for words in (1, 7, 12, 16):
        with ahead.compiling_for((9, 0)) as launches:
            ahead.launch(CASES["layout_context"], Shape("", 2, 32, words, 32), torch.float32)
        seen |= {found.kernel.hash for found in launches}
    assert len(seen) == 2


def test_figures_of_other_shapes_stay_in_the_file(tmp_path, monkeypatch):
    def figures(case, shape, dtype, capability):
        found = ahead.Figures("k", case.name, shape.name, str(dtype), "9.0", *[1] * 9)
        return [found] if case.name == "layout_context" else []

    monkeypatch.setattr(ahead, "figures", figures)
    out = tmp_path / "kernels.jsonl"
    for shape in ("1,8,4,16", "2,8,4,16", "1,8,4,16"):
        ahead.main(["--capability", "9.0", "--out", str(out), "--shape", shape])
    found = [(line["shape"], line["dtype"]) for line in map(json.loads, out.open())]
    assert sorted(found) == sorted(product(("1,8,4,16", "2,8,4,16"), map(str, ahead.DTYPES)))


@pytest.mark.parametrize("shape", ["1,2", "a,b,c,d", "0,8,4,16", "1,2,3,4,5"])
def test_a_mistyped_shape_is_one_line(shape, capsys):
    with pytest.raises(SystemExit):
        ahead.main(["--shape", shape])
    assert "expected B,D,T,SIZE, such as 20,32,18,128" in capsys.readouterr().err
