"""STREAM, MirrorGAN's captioner: an image encoder and an LSTM that writes the caption."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from baselines.config import StreamConfig
from baselines.networks.encoders import require_captions
from baselines.networks.trunks import make_trunk

RESNET = "resnet152"


class CaptionImageEncoder(nn.Module):
    """What the captioner sees of an image, as `CAPTION_CNN`.

    Resized without antialiasing, through the trunk, pooled, a linear map and a batch norm. The
    original gives its ResNet-152 images in [-1, 1], not as ImageNet's are normalised; `normalise`
    does. A frozen trunk stays in evaluation mode.

    Args:
        embedding_dim: E, width of the feature.
        trunk: a timm network, or "small", a light one of ours to be trained from scratch.
        pretrained: download the trunk's ImageNet weights.
        weights_file: the trunk's weights from a file instead.
        input_size: side in pixels of what the trunk sees.
        aligned_corners: how images are resized to it.
        normalise: give a timm trunk what it was trained on.
        train_trunk: whether the trunk learns.
    """

    def __init__(
        self,
        *,
        embedding_dim: int = 256,
        trunk: str = RESNET,
        pretrained: bool = False,
        weights_file: Path | None = None,
        input_size: int = 224,
        aligned_corners: bool = False,
        normalise: bool = False,
        train_trunk: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.trunk_name = embedding_dim, trunk
        self.input_size, self.aligned_corners = input_size, aligned_corners
        self.train_trunk = train_trunk
        self.trunk = make_trunk(
            trunk,
            input_size,
            pretrained=pretrained,
            weights_file=weights_file,
            normalise=normalise,
        )
        self.trunk.requires_grad_(train_trunk)
        self.linear = nn.Linear(self.trunk.code_dim, embedding_dim)
        self.norm = nn.BatchNorm1d(embedding_dim, momentum=0.01)
        self.train()

    def train(self, mode: bool = True) -> CaptionImageEncoder:
        """Set training mode, in which a frozen trunk keeps its statistics."""
        super().train(mode)
        if not self.train_trunk:
            self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, E). Gradients reach the images."""
        size = (self.input_size, self.input_size)
        if images.shape[2:] != size:
            images = F.interpolate(
                images, size, mode="bilinear", align_corners=self.aligned_corners
            )
        return self.norm(self.linear(self.trunk(images)[1]))


class CaptionDecoder(nn.Module):
    """An LSTM that tells the words of a caption from an image's feature, as `CAPTION_RNN`.

    Teacher forcing: the feature is the first input, each word the input after it, so that every
    word is told from the image and the words before. There is no mark of the start or the end.

    Args:
        vocabulary_size: V.
        embedding_dim: E, of words and of the image's feature.
        hidden_dim: H of the LSTM.
    """

    def __init__(
        self, vocabulary_size: int, *, embedding_dim: int = 256, hidden_dim: int = 512
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.embedding_dim = vocabulary_size, embedding_dim
        self.hidden_dim = hidden_dim
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True)
        self.linear = nn.Linear(hidden_dim, vocabulary_size)

    def train(self, mode: bool = True) -> CaptionDecoder:
        """Set the mode, all but the LSTM's: in evaluation mode cuDNN cannot go back through it.

        Without dropout it computes the same in both.
        """
        super().train(mode)
        self.lstm.train()
        return self

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Tell every real word of the captions.

        Args:
            features: (B, E), of the images.
            captions: (B, T) int64 ids, anything in the padded places.
            lengths: (B,) integers from 1 to T, in any order; on the CPU, where they are needed.

        Returns:
            (N, V) logits and (N,) words, N = sum of the lengths, in the order of a packed sequence:
            all first words, longest caption first, then all second words, and so on.

        Raises:
            ValueError: for other shapes.
        """
        require_captions(captions, lengths)
        words = self.embedding(captions[:, :-1])
        inputs = torch.cat((features[:, None].to(words.dtype), words), dim=1)
        states, _ = self.lstm(_packed(inputs, lengths))
        return self.linear(states.data), _packed(captions, lengths).data


class Captioner(nn.Module):
    """Both halves of STREAM.

    Args:
        image: what looks.
        decoder: what tells; of the same E.
    """

    def __init__(self, image: CaptionImageEncoder, decoder: CaptionDecoder) -> None:
        super().__init__()
        if image.embedding_dim != decoder.embedding_dim:
            raise ValueError(
                f"image features of width {image.embedding_dim} for a decoder of width "
                f"{decoder.embedding_dim}"
            )
        self.image, self.decoder = image, decoder

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] and captions (B, T) -> logits (N, V), words (N,).

        See `CaptionDecoder`.
        """
        return self.decoder(self.image(images), captions, lengths)


def build_captioner(
    stream: StreamConfig,
    vocabulary_size: int,
    *,
    fetch: bool = False,
    weights_file: Path | None = None,
) -> Captioner:
    """The captioner of `stream`.

    With `fetch`, its trunk starts from `weights_file`, or from the usual download where
    `stream.start` is "imagenet"; otherwise its weights are about to be loaded.
    """
    image = CaptionImageEncoder(
        embedding_dim=stream.embedding_dim,
        trunk=stream.trunk,
        pretrained=fetch and stream.start == "imagenet" and weights_file is None,
        weights_file=weights_file if fetch else None,
        input_size=stream.input_size,
        aligned_corners=stream.aligned_corners,
        normalise=stream.normalise,
        train_trunk=stream.train_trunk,
    )
    decoder = CaptionDecoder(
        vocabulary_size, embedding_dim=stream.embedding_dim, hidden_dim=stream.hidden_dim
    )
    return Captioner(image, decoder)


def stream_config(captioner: Captioner) -> StreamConfig:
    """The settings of a captioner that was converted from the original's."""
    return StreamConfig(
        trunk=captioner.image.trunk_name,
        input_size=captioner.image.input_size,
        embedding_dim=captioner.decoder.embedding_dim,
        hidden_dim=captioner.decoder.hidden_dim,
    )


def _packed(padded: Tensor, lengths: Tensor) -> PackedSequence:
    return pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)
