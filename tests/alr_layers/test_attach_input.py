"""What attach is given wrongly is named before it hooks anything."""

import pytest
import torch

from alr_layers import ALRLoss, attach
from tests.adoption.hosts import dfgan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stages": "GBlocks.1"}, r"stages is 'GBlocks\.1', expected a list .*stages=\['GBlocks"),
        ({"feature_dims": 32}, r"feature_dims is 32, expected a list .*: feature_dims=\[32\]"),
        ({"heads": "to_rgb"}, "heads is 'to_rgb', expected a list with an entry for every stage"),
        (
            {"alr": ALRLoss(32)},
            r"alr is a ALRLoss, expected what builds .*partial\(ALRLoss, max_wo",
        ),
        ({"alr": 77}, "alr is a int, expected what builds the loss"),
    ],
)
def test_arguments_of_another_kind(given, message):
    netG = dfgan.NetG()
    options = {"stages": ["GBlocks.1"], "feature_dims": [32], "downsample": 2, "word_dim": 12}
    with pytest.raises(TypeError, match=message):
        attach(netG, decode="generator", **{**options, **given})
    assert not netG._forward_pre_hooks


def test_a_stage_that_reads_no_map_is_named():
    """A wrong module was named as the stage: what it is called with is no (B, D, H, W)."""
    netG = dfgan.NetG()
    options = {"feature_dims": [32], "downsample": 2, "word_dim": 12}
    refine = attach(netG, decode="generator", stages=["fc"], **options)
    with pytest.raises(TypeError, match=r"Linear was called without features \(B, D, H, W\)"):
        netG(torch.randn(2, netG.fc.in_features), torch.randn(2, 12))
    assert refine.training
