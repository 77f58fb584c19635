import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from alr_layers import FusedUnavailableError
from alr_layers.kernels import dispatch, requirements, tiles
from tests.alr_layers.kernel_support import ARRANGEMENTS, arranged


@given(st.integers(1, 128))
def test_a_bucket_of_words_is_the_next_power_of_two(words):
    block = tiles.block_words(words)
    assert block >= max(16, words)
    assert block & (block - 1) == 0
    assert block == 16 or block < 2 * words


@given(st.integers(1, 5000), st.integers(1, 2000))
def test_splits_cover_every_tile_and_stay_few(cuts, programs):
    splits = tiles.split_count(cuts, programs)
    each = -(-cuts // splits)
    assert 1 <= splits <= min(cuts, tiles.TARGET_PROGRAMS)
    assert splits * each >= cuts


@pytest.mark.parametrize(
    ("arrangement", "flat"),
    list(zip(ARRANGEMENTS, (True, True, False, True, False), strict=True)),
)
def test_one_stride_walks_the_regions(arrangement, flat):
    x = arranged(torch.arange(360.0).reshape(3, 4, 5, 6), arrangement)
    assert tiles.is_flat(x) is flat
    if flat:
        walked = x.as_strided((3, 4, 30), (*x.stride()[:2], x.stride(3)))
        assert torch.equal(walked, x.flatten(2))


def test_arithmetic_follows_storage_and_the_gpu(monkeypatch):
    half, single = torch.zeros(1, dtype=torch.float16), torch.zeros(1)
    monkeypatch.setattr(tiles, "compute_capability", lambda tensor: (9, 0))
    assert tiles.arithmetic(half, half) == tiles.NATIVE
    assert tiles.arithmetic(half, single) == tiles.arithmetic(single, single) == tiles.ON_CORES
    assert tiles.arithmetic(half, half.bfloat16()) == tiles.ON_CORES
    monkeypatch.setattr(tiles, "compute_capability", lambda tensor: (7, 5))
    assert tiles.arithmetic(half, half) == tiles.arithmetic(single, single) == tiles.IEEE


@given(
    st.integers(1, 256),
    st.integers(1, 128),
    st.sampled_from([tiles.NATIVE, tiles.ON_CORES, tiles.IEEE]),
)
def test_every_size_has_a_tile(dim, words, arithmetic):
    found = [tiles.layout_tile(dim, words, arithmetic, forward=way) for way in (True, False)]
    found += [tiles.gram_tile(dim, arithmetic, gpu) for gpu in ((8, 0), (9, 0))]
    found.append(tiles.difference_tile(dim, words, arithmetic))
    for tile in found:
        assert tile.precision in (tiles.NATIVE, tiles.PIECES, "bf16x6", tiles.IEEE)
        assert (tile.precision == tiles.NATIVE) == (arithmetic == tiles.NATIVE)
        assert arithmetic != tiles.IEEE or tile.precision == tiles.IEEE
        assert tile.block_d in (16, 32, 64)
        assert tile.block_n in (16, 32, 64, 128)


def reasons(features, words, monkeypatch):
    monkeypatch.setattr(requirements, "INTERPRETED", True)
    return "; ".join(requirements.obstacles("layout_context", features, words))


@pytest.mark.parametrize(
    ("features", "words", "reason"),
    [
        (torch.zeros(1, 257, 2, 2), torch.zeros(1, 257, 3), "257 channels, at most 256"),
        (torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 129), "129 words, at most 128"),
        (torch.zeros(1, 4, 2, 2).double(), torch.zeros(1, 4, 3), "torch.float64"),
        (torch.zeros(0, 4, 2, 2), torch.zeros(0, 4, 3), "empty"),
    ],
)
def test_what_cannot_be_taken_is_said(features, words, reason, monkeypatch):
    assert reason in reasons(features, words, monkeypatch)


def test_all_reasons_are_listed_together(monkeypatch):
    found = reasons(torch.zeros(1, 300, 2, 2).double(), torch.zeros(1, 300, 200), monkeypatch)
    assert all(word in found for word in ("float64", "channels", "words"))


def test_the_cpu_is_a_reason_and_an_explicit_wish_raises():
    h, words, lengths = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 3), torch.ones(1).long()
    theta = torch.zeros(1, 3, 2, 2)
    assert "no CUDA device" in requirements.obstacles("masked_difference", h, h, theta, theta)[0]
    with pytest.raises(FusedUnavailableError, match="no CUDA device"):
        dispatch.resolve("layout_context", (h, words, lengths), "fused")


def test_many_words_and_channels_of_the_difference_are_counted_in_its_own_arguments(monkeypatch):
    monkeypatch.setattr(requirements, "INTERPRETED", True)
    h, theta = torch.zeros(1, 300, 2, 2), torch.zeros(1, 200, 2, 2)
    found = "; ".join(requirements.obstacles("masked_difference", h, h, theta, theta))
    assert "300 channels, at most 256" in found
    assert "200 words, at most 128" in found


def test_the_reference_handles_what_is_no_cuda_device_even_when_interpreting(monkeypatch):
    monkeypatch.setattr(requirements, "INTERPRETED", True)
    h = torch.zeros(1, 4, 2, 2, device="meta")
    assert "no CUDA device: tensors are on meta" in requirements.obstacles(
        "gated_residual", h, h, h
    )
