"""DAMSM's text and image encoders (baselines_spec 2 and 3)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class TextFeatures(NamedTuple):
    """words (B, E, T), zero at padded words; sentence (B, E)."""

    words: Tensor
    sentence: Tensor


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
        if captions.dim() != 2 or lengths.shape != captions.shape[:1]:
            raise ValueError(
                "captions must be (B, T) and lengths (B,), "
                f"got {tuple(captions.shape)} and {tuple(lengths.shape)}"
            )
        embedded = self.dropout(self.embedding(captions))
        packed = pack_padded_sequence(
            embedded, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.rnn(packed)
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=captions.shape[1])
        return TextFeatures(words.transpose(1, 2), last.transpose(0, 1).flatten(1))
