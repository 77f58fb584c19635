"""Batches as AttnGAN-like code has them: image pyramids, captions sorted by length."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

BATCH, VOCABULARY, WORDS_NUM = 4, 30, 7


def load_batch(step: int, sizes: tuple[int, ...]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Images in [-1, 1] of every size, captions (B, T) of word ids, and their lengths."""
    generator = torch.Generator().manual_seed(step)
    smooth = torch.randn(BATCH, 3, 4, 4, generator=generator)
    imgs = [interpolate(smooth, (size, size), mode="bilinear").tanh() for size in sizes]
    cap_lens = torch.randint(2, WORDS_NUM + 1, (BATCH,), generator=generator).sort(descending=True)[
        0
    ]
    captions = torch.randint(1, VOCABULARY, (BATCH, WORDS_NUM), generator=generator)
    captions = captions.masked_fill(torch.arange(WORDS_NUM) >= cap_lens[:, None], 0)
    return imgs, captions, cap_lens


class RNN_ENCODER(nn.Module):
    """Words (B, C, T), T the longest caption of the batch, and the sentence (B, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(VOCABULARY, 8)
        self.rnn = nn.LSTM(8, width // 2, batch_first=True, bidirectional=True)

    def forward(self, captions: Tensor, cap_lens: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(self.encoder(captions), cap_lens, batch_first=True)
        output, (hidden, _) = self.rnn(packed)
        words = pad_packed_sequence(output, batch_first=True)[0]
        return words.transpose(1, 2), hidden.transpose(0, 1).flatten(1)


def text_encoder(width: int) -> nn.Module:
    """Frozen, in evaluation mode, its words detached from every graph."""
    return RNN_ENCODER(width).eval().requires_grad_(False)
