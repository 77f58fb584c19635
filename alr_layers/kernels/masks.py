"""The layout masks M_Θ and M_Θ* fused: both layouts are read once, N numbers a sample are left."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import torch
import triton
import triton.language as tl
from torch import Tensor

from alr_layers.kernels import tiles
from alr_layers.kernels.tiles import place_of

ENTRIES = 4096  # of a tile of regions against all words


@triton.jit
def _peaks(layout, strides, b, n, t, width, mask, FLAT: tl.constexpr):
    """max_j θ of each region, NaN where a word is NaN (tl.max passes over NaN)."""
    place = place_of(layout, strides, b, t, n, width, FLAT)
    theta = tl.load(place, mask=mask, other=-float("inf")).to(tl.float32)
    return tl.max(theta, 0) + tl.sum(tl.where(theta != theta, theta, 0.0), 0)


@triton.jit(do_not_specialize=["word_count"])
def _peaks_kernel(
    layout,
    layout_strides,
    real_layout,
    real_layout_strides,
    peaks,
    real_peaks,
    word_count,
    regions,
    width,
    FLAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.arange(0, BLOCK_T).to(tl.int64)
    mask = (t < word_count)[:, None] & (n < regions)[None, :]
    peak = _peaks(layout, layout_strides, b, n, t, width, mask, FLAT)
    tl.store(peaks + b * regions + n, peak, mask=n < regions)
    peak = _peaks(real_layout, real_layout_strides, b, n, t, width, mask, FLAT)
    tl.store(real_peaks + b * regions + n, peak, mask=n < regions)


def region_masks(layout: Tensor, real_layout: Tensor, soft: bool) -> tuple[Tensor, Tensor]:
    """(M_Θ, M_Θ*) as (B, N) float32."""
    batch, words, height, width = layout.shape
    regions = height * width
    peaks = layout.new_empty(batch, regions, dtype=torch.float32)
    real_peaks = torch.empty_like(peaks)
    block_t = tiles.block_words(words)
    block_n = ENTRIES // block_t
    with tiles.on_device(layout):
        _peaks_kernel[(triton.cdiv(regions, block_n), batch)](
            **tiles.with_strides(layout=layout, real_layout=real_layout),
            peaks=peaks,
            real_peaks=real_peaks,
            word_count=words,
            regions=regions,
            width=width,
            FLAT=tiles.is_flat(layout, real_layout),
            BLOCK_N=block_n,
            BLOCK_T=block_t,
        )
    return (peaks, real_peaks) if soft else (_hardened(peaks), _hardened(real_peaks))


def _hardened(peaks: Tensor) -> Tensor:
    """1 where a peak reaches the sample's mean, else 0; NaN if that is NaN.

    The mean is taken in float64, where peaks that are all the same have exactly that mean.
    """
    mean = peaks.mean(1, keepdim=True, dtype=torch.float64)
    return ((peaks >= mean) + 0 * mean).float()
