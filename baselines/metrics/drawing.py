"""The images that metrics look at: drawn for every caption of a split, or real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from baselines.data.loader import seeded_rng
from baselines.data.source import DataError, Source
from baselines.data.vocabulary import Vocabulary
from baselines.metrics.extractors import Extractor, Features
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import StackedGenerator

TEXT_BATCH = 512


@dataclass(frozen=True)
class Pairs:
    """Every (image, caption) of a split: the first caption of every image, then the second, ...

    In this order the first n pairs show as many different images as there can be.

    images: (N,) index of the image; captions: (N,) place among its captions; class_ids: (N,);
    ids: (N, T) words; lengths: (N,); different: how many images have a caption at all; truncated,
    dropped: captions cut to T words, and left out because no word of theirs is known.
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


def read_pairs(source: Source, vocabulary: Vocabulary, max_words: int) -> Pairs:
    """Encode every caption; over-long ones keep their first `max_words` words.

    Raises:
        DataError: no caption has a word of the vocabulary.
    """
    rows: list[tuple[int, int, int, list[int]]] = []
    truncated = dropped = 0
    for index in range(len(source)):
        turn = 0
        for number, text in enumerate(source.captions(index)):
            ids = vocabulary.encode(text)
            truncated += len(ids) > max_words
            dropped += not ids
            if ids:
                rows.append((turn, index, number, ids[:max_words]))
                turn += 1
    if not rows:
        raise DataError(f"{source.name} {source.split}: no caption has a word of the vocabulary")
    rows.sort(key=lambda row: row[:2])
    padded = torch.zeros(len(rows), max_words, dtype=torch.int64)
    for row, (_, _, _, ids) in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
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


@torch.inference_mode()
def encode_sentences(pairs: Pairs, encoder: TextEncoder, device: torch.device) -> Tensor:
    """(N, E) sentence vectors of all captions, on the CPU."""
    parts = zip(pairs.ids.split(TEXT_BATCH), pairs.lengths.split(TEXT_BATCH), strict=True)
    return torch.cat([encoder(ids.to(device), lengths).sentence.cpu() for ids, lengths in parts])


@dataclass
class Shown:
    """One batch of images with the pairs they belong to; what several metrics need is kept.

    rows: (B,) of the pairs; images: (B, 3, S, S) in [-1, 1], on the device; layouts: per
    refinement stage (B, T, h, w), empty where there are none.
    """

    rows: Tensor
    images: Tensor
    layouts: tuple[Tensor, ...]
    encoder: ImageEncoder
    _code: Tensor | None = None
    _features: dict[str, Features] = field(default_factory=dict)

    @property
    def code(self) -> Tensor:
        """(B, E) of the run's image encoder."""
        if self._code is None:
            self._code = self.encoder(self.images).code
        return self._code

    def features(self, extractor: Extractor) -> Features:
        """What `extractor` makes of the images."""
        name = extractor.provenance.extractor
        if name == "damsm":
            return Features(self.code, None)
        if name not in self._features:
            self._features[name] = extractor(self.images)
        return self._features[name]


def draw(
    generator: StackedGenerator,
    pairs: Pairs,
    text_encoder: TextEncoder,
    image_encoder: ImageEncoder,
    *,
    count: int,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> Iterator[Shown]:
    """An image for each of the first `count` pairs.

    The noise of a pair, that of the conditioning augmentation included, follows from the seed and
    the pair's number alone, whatever the batch size and the device.
    """
    for rows in torch.arange(count).split(batch_size):
        text = text_encoder(pairs.ids[rows].to(device), pairs.lengths[rows])
        noise, eps = (
            torch.stack(values).to(device)
            for values in zip(*(_noise(generator, seed, row) for row in rows.tolist()), strict=True)
        )
        lengths = pairs.lengths[rows].to(device)
        drawn = generator(noise, text.sentence, text.words, lengths, eps=eps)
        yield Shown(rows, drawn.images[-1], drawn.layouts, image_encoder)


def _noise(generator: StackedGenerator, seed: int, row: int) -> tuple[Tensor, Tensor]:
    stream = seeded_rng(seed, row)
    return (
        torch.randn(generator.noise_dim, generator=stream),
        torch.randn(generator.condition_dim, generator=stream),
    )


RealLayouts = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def real(
    source: Source,
    pairs: Pairs,
    text_encoder: TextEncoder,
    image_encoder: ImageEncoder,
    *,
    count: int,
    size: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    layouts: RealLayouts | None = None,
) -> Iterator[Shown]:
    """The real images of the first `count` pairs; `layouts(images, words, lengths)` gives Θ*."""
    loader = DataLoader(
        _Images(source, pairs.images[:count].tolist(), size),
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # Without one of its own a DataLoader takes its base seed from the global generator.
        generator=torch.Generator(),
    )
    for rows, images in zip(torch.arange(count).split(batch_size), loader, strict=True):
        images = images.to(device, non_blocking=True)
        maps: tuple[Tensor, ...] = ()
        if layouts is not None:
            text = text_encoder(pairs.ids[rows].to(device), pairs.lengths[rows])
            maps = layouts(images, text.words, pairs.lengths[rows].to(device))
        yield Shown(rows, images, maps, image_encoder)


class _Images(Dataset[Tensor]):
    def __init__(self, source: Source, indices: Sequence[int], size: int) -> None:
        self.source, self.indices, self.size = source, indices, size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Tensor:
        return self.source.image(self.indices[place], self.size)
