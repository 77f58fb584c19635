"""DAMSM's text and image encoders, as AttnGAN's `RNN_ENCODER` and `CNN_ENCODER`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from baselines.config import EncoderConfig
from baselines.networks.trunks import SMALL, make_trunk


class TextFeatures(NamedTuple):
    """words (B, E, T), zero at padded words; sentence (B, E)."""

    words: Tensor
    sentence: Tensor


def require_captions(captions: Tensor, lengths: Tensor) -> None:
    """Check the shapes of captions.

    Raises:
        ValueError: they are not (B, T) and (B,).
    """
    if captions.dim() != 2 or lengths.shape != captions.shape[:1]:
        raise ValueError(
            "captions must be (B, T) and lengths (B,), "
            f"got {tuple(captions.shape)} and {tuple(lengths.shape)}"
        )


class TextEncoder(nn.Module):
    """Bidirectional LSTM over word ids.

    Args:
        vocabulary_size: number of ids.
        embedding_dim: E, both directions together, so even.
        token_dim: width of the word embedding.
        dropout: on the word embedding, in training only.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_dim: int = 256,
        token_dim: int = 300,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if embedding_dim % 2:
            raise ValueError(f"embedding_dim is split over two directions, got {embedding_dim}")
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.embedding = nn.Embedding(vocabulary_size, token_dim)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.LSTM(token_dim, embedding_dim // 2, batch_first=True, bidirectional=True)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, captions: Tensor, lengths: Tensor) -> TextFeatures:
        """Encode a batch.

        Args:
            captions: (B, T) int64 ids, anything in the padded places.
            lengths: (B,) integers from 1 to T, in any order. On a GPU pass them on the CPU, where
                they are needed; otherwise they are fetched, which waits for the device.

        Raises:
            ValueError: for other shapes.
        """
        require_captions(captions, lengths)
        embedded = self.dropout(self.embedding(captions))
        packed = pack_padded_sequence(
            embedded, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.rnn(packed)
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=captions.shape[1])
        return TextFeatures(words.transpose(1, 2), last.transpose(0, 1).flatten(1))


class ImageFeatures(NamedTuple):
    """regions (B, E, R, R); code (B, E)."""

    regions: Tensor
    code: Tensor


class ImageEncoder(nn.Module):
    """Images into the space of words (regions) and sentences (code).

    Images of another size are resized to `input_size`, corner-aligned and bilinear: what the
    released encoders were trained with. A frozen trunk stays in evaluation mode, so that its
    batch-norm statistics stay those of its weights; the originals let them drift
    (`moving_statistics=True`), which is why a released encoder carries statistics of its own.

    Args:
        embedding_dim: E.
        trunk: "inception_v3" (regions 17x17 at 299 px), "small" (a light trunk of our own for
            32, 64, ... px, regions 8x8, trained from scratch) or the name of a timm network.
        pretrained: download the trunk's ImageNet weights.
        input_size: side of what the trunk sees.
        weights_file: the trunk's weights from a file instead (torchvision's for Inception).
        train_trunk: whether the trunk learns; None: only "small" does.
        moving_statistics: let a frozen trunk's batch norms follow `train()`.
    """

    def __init__(
        self,
        *,
        embedding_dim: int = 256,
        trunk: str = "inception_v3",
        pretrained: bool = False,
        input_size: int = 299,
        weights_file: str | Path | None = None,
        train_trunk: bool | None = None,
        moving_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.trunk_name = trunk
        self.input_size = input_size
        self.trunk = make_trunk(trunk, input_size, pretrained=pretrained, weights_file=weights_file)
        self.region_head = nn.Conv2d(self.trunk.region_dim, embedding_dim, 1, bias=False)
        self.code_head = nn.Linear(self.trunk.code_dim, embedding_dim)
        nn.init.uniform_(self.region_head.weight, -0.1, 0.1)
        nn.init.uniform_(self.code_head.weight, -0.1, 0.1)
        self.train_trunk = trunk == SMALL if train_trunk is None else train_trunk
        self.moving_statistics = moving_statistics
        self.trunk.requires_grad_(self.train_trunk)
        self.train()

    @property
    def region_size(self) -> int:
        """R, the side of the grid of regions."""
        return self.trunk.region_size

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set training mode, in which a frozen trunk keeps its statistics (see the class)."""
        super().train(mode)
        if not (self.train_trunk or self.moving_statistics):
            self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) in [-1, 1] -> regions (B, E, R, R), code (B, E).

        Gradients reach the images whether or not the encoder itself is frozen.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
        size = (self.input_size, self.input_size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=True)
        regions, pooled = self.trunk(images)
        return ImageFeatures(self.region_head(regions), self.code_head(pooled))


def build_text_encoder(encoder: EncoderConfig, vocabulary_size: int) -> TextEncoder:
    """The bidirectional LSTM over a vocabulary (as AttnGAN's `RNN_ENCODER`)."""
    return TextEncoder(
        vocabulary_size,
        embedding_dim=encoder.embedding_dim,
        token_dim=encoder.token_dim,
        dropout=encoder.dropout,
    )


def build_image_encoder(
    encoder: EncoderConfig, *, fetch: bool = False, weights_file: Path | None = None
) -> ImageEncoder:
    """The image half of DAMSM.

    With `fetch`, its trunk starts from `weights_file`, or from the usual download where
    `encoder.pretrained` asks for it; otherwise its weights are about to be loaded.
    """
    return ImageEncoder(
        embedding_dim=encoder.embedding_dim,
        trunk=encoder.trunk,
        pretrained=fetch and encoder.pretrained and weights_file is None,
        input_size=encoder.input_size,
        weights_file=weights_file if fetch else None,
        train_trunk=encoder.train_trunk,
    )
