"""AttnGAN's word attention (`GlobalAttentionGeneral`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alr_layers import ALRModule
from baselines.networks.contracts import Text
from baselines.networks.masking import mask_scores


class WordAttention(nn.Module):
    """Every region's context of words, put beside the region's features.

    With the correct mask this is `alr_layers.ALRModule`; `legacy_mask` reproduces the originals'
    mis-tiled padding mask with the same weights.
    """

    def __init__(self, feature_dim: int, word_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.legacy_mask = False
        self.alr = ALRModule(feature_dim, word_dim)

    def forward(self, features: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """(B, g, H, W) -> fused (B, 2g, H, W), layout (B, T, H, W)."""
        if self.legacy_mask:
            context, layout = self._legacy(features, text.words, text.lengths)
        else:
            context, layout = self.alr(features, text.words, text.lengths)
        return torch.cat((features, context), dim=1), layout

    def layout(self, features: Tensor, text: Text) -> Tensor:
        """Each region's distribution over the words, (B, T, H, W)."""
        if self.legacy_mask:
            return self._legacy(features, text.words, text.lengths)[1]
        return self.alr.layout(features, text.words, text.lengths)

    def _legacy(self, features: Tensor, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.alr.word_projection(words)
        scores = features.flatten(2).transpose(1, 2) @ projected
        attention = mask_scores(scores, lengths, legacy=True).softmax(dim=2).transpose(1, 2)
        grid = features.shape[2:]
        return (projected @ attention).unflatten(2, grid), attention.unflatten(2, grid)
