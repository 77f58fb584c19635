import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import kept
from benchmarks.cases import Shape
from benchmarks.paths import cases
from tests.support.paths import ROOT

SHAPE = Shape("tiny", 2, 8, 5, 4)
CASES = {case.name: case for case in cases()}


def test_the_page_shows_what_is_counted_and_the_losses_keep_half_of_the_reference_or_less():
    table = kept.table()
    assert table in (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    shares = [
        int(share)
        for line in table.splitlines()
        if "loss_path" in line
        for share in re.findall(r"(\d+) %", line)
    ]
    assert len(shares) == 6
    assert max(shares) <= 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_counts_of_phi_by_hand(dtype):
    """Both φ: the output of 8 channels; the reference the map between as well."""
    numbers = 2 * SHAPE.batch * SHAPE.dim * SHAPE.regions
    assert kept.kept(CASES["phi"], "fused", SHAPE, dtype) == numbers * dtype.itemsize
    assert kept.kept(CASES["phi"], "eager", SHAPE, dtype) == 2 * numbers * dtype.itemsize


def test_counts_of_the_path_by_hand():
    """Fused, a region: Θ, Θ*, both masks, what each φ reads and gives. Four times the regions."""
    numbers = (2 * 5 + 2 + 2 * (5 + 8)) * SHAPE.batch * SHAPE.regions
    small, large = (
        kept.kept(CASES["loss_path"], "fused", replace(SHAPE, size=size), torch.float32)
        for size in (SHAPE.size, 2 * SHAPE.size)
    )
    assert large - small == 3 * numbers * 4
