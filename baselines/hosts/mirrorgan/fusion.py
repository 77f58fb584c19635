"""MirrorGAN's global-local collaborative attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.hosts.attngan.fusion import WordAttention
from baselines.networks.contracts import Text


class GlobalLocalAttention(nn.Module):
    """AttnGAN's word attention, and a gate on the condition, joined by a 1x1 convolution.

    As in MirrorGAN's `NEXT_STAGE_G`. The paper's global attention is a softmax over the *channels*
    of every region: it chooses which channels of the projected condition a region lets in, not
    where. The layout is the word attention's. Neither the gate nor the join has a norm.

    Args:
        feature_dim: D.
        word_dim: E.
        condition_dim: C, of the conditioning augmentation.
    """

    def __init__(self, feature_dim: int, word_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.attention = WordAttention(feature_dim, word_dim)
        self.project = nn.Linear(condition_dim, feature_dim)
        self.gate = nn.Conv2d(feature_dim, feature_dim, 1, bias=False)
        self.join = nn.Conv2d(3 * feature_dim, 2 * feature_dim, 1, bias=False)

    @property
    def legacy_mask(self) -> bool:
        """Whether the word attention masks padding as the original does."""
        return self.attention.legacy_mask

    @legacy_mask.setter
    def legacy_mask(self, value: bool) -> None:
        self.attention.legacy_mask = value

    def forward(self, features: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """(B, D, H, W) -> fused (B, 2D, H, W), layout (B, T, H, W).

        Raises:
            ValueError: `text` has no condition.
        """
        if text.condition is None:
            raise ValueError("this fusion needs text.condition, (B, C)")
        with_words, layout = self.attention(features, text)
        condition = self.project(text.condition)[:, :, None, None]
        share = self.gate(features * condition).softmax(dim=1)
        return self.join(torch.cat((with_words, condition * share), dim=1)), layout

    def layout(self, features: Tensor, text: Text) -> Tensor:
        """Each region's distribution over the words, (B, T, H, W)."""
        return self.attention.layout(features, text)
