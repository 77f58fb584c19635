"""Every (image, caption) pair of a split, in the order in which evaluation takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.data.source import DataError, Source
from baselines.data.vocabulary import Vocabulary
from baselines.networks.encoders import TextEncoder

TEXT_BATCH = 512


@dataclass(frozen=True)
class Pairs:
    """Every (image, caption) of a split: the first caption of every image, then the second, ...

    In this order the first n pairs show as many different images as there can be.

    images: (N,) index of the image; captions: (N,) place among its captions; class_ids: (N,);
    ids: (N, T) words; lengths: (N,); different: how many images have a caption at all; truncated,
    dropped: captions cut to T words, and left out because no word of theirs is known. Without a
    vocabulary T is 0 and every caption is there.
    """

    images: Tensor
    captions: Tensor
    class_ids: Tensor
    ids: Tensor
    lengths: Tensor
    different: int
    truncated: int
    dropped: int

    def __len__(self) -> int:
        return len(self.images)


def read_pairs(source: Source, vocabulary: Vocabulary | None, max_words: int) -> Pairs:
    """Encode every caption; over-long ones keep their first `max_words` words.

    Args:
        source: the split.
        vocabulary: of the text encoder; None leaves the captions unread.
        max_words: T.

    Raises:
        DataError: no caption has a word of the vocabulary.
    """
    rows: list[tuple[int, int, int, list[int]]] = []
    truncated = dropped = 0
    width = 0 if vocabulary is None else max_words
    for index in range(len(source)):
        turn = 0
        for number, text in enumerate(source.captions(index)):
            ids = [] if vocabulary is None else vocabulary.encode(text)
            usable = vocabulary is None or bool(ids)
            truncated += len(ids) > width
            dropped += not usable
            if usable:
                rows.append((turn, index, number, ids[:width]))
                turn += 1
    if not rows:
        raise DataError(f"{source.name} {source.split}: no caption has a word of the vocabulary")
    rows.sort(key=lambda row: row[:2])
    padded = torch.zeros(len(rows), width, dtype=torch.int64)
    for row, (_, _, _, ids) in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    images = [index for _, index, _, _ in rows]
    classes = {index: source.class_id(index) for index in set(images)}
    return Pairs(
        images=torch.tensor(images),
        captions=torch.tensor([number for _, _, number, _ in rows]),
        class_ids=torch.tensor([classes[index] for index in images]),
        ids=padded,
        lengths=torch.tensor([len(ids) for *_, ids in rows]),
        different=len(classes),
        truncated=truncated,
        dropped=dropped,
    )


def read_again(source: Source, pairs: Pairs, vocabulary: Vocabulary, max_words: int) -> Pairs:
    """Encode the captions of the same pairs in the words of another vocabulary.

    A caption without a word of it is read as its first id alone, so that no pair is lost.
    """
    ids = torch.zeros(len(pairs), max_words, dtype=torch.int64)
    lengths = torch.ones(len(pairs), dtype=torch.int64)
    places = zip(pairs.images.tolist(), pairs.captions.tolist(), strict=True)
    for row, (index, number) in enumerate(places):
        known = vocabulary.encode(source.captions(index)[number])[:max_words]
        ids[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
        lengths[row] = max(1, len(known))
    return replace(pairs, ids=ids, lengths=lengths)


@torch.inference_mode()
def encode_sentences(pairs: Pairs, encoder: TextEncoder, device: torch.device) -> Tensor:
    """Encode all captions into (N, E) sentence vectors, on the CPU.

    A caption that occurs several times is encoded once: its vectors are then equal to the bit,
    where rounding in different batches would make one of them win a comparison by accident.
    """
    ids, place = torch.unique(pairs.ids, dim=0, return_inverse=True)
    lengths = torch.zeros(len(ids), dtype=torch.int64)
    lengths[place] = pairs.lengths
    parts = zip(ids.split(TEXT_BATCH), lengths.split(TEXT_BATCH), strict=True)
    encoded = [encoder(rows.to(device), counts).sentence.cpu() for rows, counts in parts]
    return torch.cat(encoded)[place]


def fingerprint(source: Source, indices: Iterable[int]) -> str:
    """Tell what images and captions are by their content, in 16 hex digits.

    Image files enter with all of their bytes and their crop, so that an exchanged image changes
    the fingerprint; a source that draws its images, with their keys and captions, from which its
    pictures follow.
    """
    digest = hashlib.sha256(f"{source.name} {source.split}".encode())
    for index in indices:
        described = (source.key(index), source.captions(index), source.class_id(index))
        digest.update(repr(described).encode())
        digest.update(source.content(index))
    return digest.hexdigest()[:16]
