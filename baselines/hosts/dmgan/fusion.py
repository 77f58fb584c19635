"""DM-GAN's dynamic memory (`Memory` in its `NEXT_STAGE_G`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.networks.contracts import Text
from baselines.networks.masking import mask_scores


class DynamicMemory(nn.Module):
    """Words and image write a memory, regions read from it, a gate mixes what they read in.

    The layout is the addressing distribution: what share of a region's reading comes from
    each word's slot. `legacy_mask` reproduces the originals' mis-tiled padding mask. Padded words
    have keys and values of their own (from biases), so the mask is not cosmetic here.
    """

    def __init__(self, feature_dim: int, word_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.legacy_mask = False
        memory_dim = 2 * feature_dim
        self.word_gate = nn.Linear(word_dim, 1, bias=False)
        self.image_gate = nn.Linear(feature_dim, 1, bias=False)
        self.write_words = nn.Sequential(nn.Conv1d(word_dim, memory_dim, 1), nn.ReLU())
        self.write_image = nn.Sequential(nn.Conv1d(feature_dim, memory_dim, 1), nn.ReLU())
        self.key = nn.Sequential(nn.Conv1d(memory_dim, feature_dim, 1), nn.ReLU())
        self.value = nn.Sequential(nn.Conv1d(memory_dim, feature_dim, 1), nn.ReLU())
        self.response_gate = nn.Conv2d(memory_dim, 1, 1)

    def forward(self, features: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """(B, g, H, W) -> fused (B, 2g, H, W), layout (B, T, H, W).

        The fused features are the gated response twice, as in the original.
        """
        memory = self._write(features, text.words)
        layout = self._address(features, memory, text.lengths)
        # The addressing is float32 under autocast; reading goes back to the features' precision.
        read = self.value(memory).to(features.dtype) @ layout.flatten(2).to(features.dtype)
        read = read.unflatten(2, features.shape[2:])
        gate = torch.sigmoid(self.response_gate(torch.cat((features, read), dim=1)))
        response = (1 - gate) * features + gate * read
        return torch.cat((response, response), dim=1), layout

    def layout(self, features: Tensor, text: Text) -> Tensor:
        """Each region's distribution over the words' slots, (B, T, H, W)."""
        return self._address(features, self._write(features, text.words), text.lengths)

    def _write(self, features: Tensor, words: Tensor) -> Tensor:
        """The memory (B, 2g, T); the image enters as its detached mean."""
        image = features.detach().mean(dim=(2, 3))
        word_share = self.word_gate(words.transpose(1, 2)).transpose(1, 2)
        gate = torch.sigmoid(word_share + self.image_gate(image)[:, :, None])
        return self.write_words(words) * gate + self.write_image(image[:, :, None]) * (1 - gate)

    def _address(self, features: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        scores = features.flatten(2).transpose(1, 2) @ self.key(memory).to(features.dtype)
        scores = mask_scores(scores, lengths, legacy=self.legacy_mask)
        accurate = scores if scores.dtype == torch.float64 else scores.float()
        return accurate.softmax(dim=2).transpose(1, 2).unflatten(2, features.shape[2:])
