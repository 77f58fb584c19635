from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import ahead
from benchmarks.cases import SHAPES, Shape, cases

LARGE = Shape("large", 2, 256, 128, 64)
CASES = {case.name: case for case in cases()[:4]}


@pytest.mark.parametrize("capability", ahead.CAPABILITIES, ids="{0[0]}.{0[1]}".format)
@pytest.mark.parametrize("name", CASES)
def test_every_kernel_compiles_without_spilling(name, capability):
    published = [shape for shape in SHAPES if shape.size == 128 and shape.name != "coco"]
    for shape, dtype in product(published, (torch.float32, torch.float16)):
        found = ahead.figures(CASES[name], shape, dtype, capability)
        assert len(found) >= 2
        for figure in found:
            assert figure.stack == 0, f"registers spill: {figure}"
            assert figure.shared <= ahead.SHARED_MEMORY[capability], figure


def test_the_largest_sizes_fit():
    for name in ("layout_context", "masked_difference"):
        for figure in ahead.figures(CASES[name], LARGE, torch.float32, (9, 0)):
            assert figure.stack == 0, figure
            assert figure.shared <= ahead.SHARED_MEMORY[9, 0], figure


def test_lengths_in_one_bucket_share_a_kernel():
    seen = set()
    for words in (1, 7, 12, 16):
        with ahead.compiling_for((9, 0)) as kernels:
            ahead.launch(CASES["layout_context"], Shape("", 2, 32, words, 32), torch.float32)
        seen |= {kernel.hash for kernel in kernels}
    assert len(seen) == 2
