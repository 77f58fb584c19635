"""Batches that depend on (seed, position) alone: the same for any worker count and any resume."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from baselines.data.source import DataError, Source
from baselines.data.vocabulary import Vocabulary
from baselines.data.workers import shield

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Captioned images.

    images: (B, 3, S, S) float32 in [-1, 1]; captions: (B, T) int64, zero-padded, T = max_words;
    lengths: (B,) int64 in 1..T; class_ids: (B,) int64; keys: of the images; caption_indices: (B,)
    place among the captions of the image; lengths_cpu: `lengths`, always on the CPU.
    """

    images: Tensor
    captions: Tensor
    lengths: Tensor
    class_ids: Tensor
    keys: tuple[str, ...]
    caption_indices: Tensor
    lengths_cpu: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.lengths_cpu is None:
            object.__setattr__(self, "lengths_cpu", self.lengths.cpu())

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """Every tensor but `lengths_cpu` on `device`, copied without waiting where possible."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in self._tensors().items()
            if name != "lengths_cpu"
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Page-locked copies, from which a GPU can be fed without waiting."""
        return replace(self, **{n: value.pin_memory() for n, value in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class Item(NamedTuple):
    """One captioned image; `ids` holds 1 to max_words word ids, not padded."""

    image: Tensor
    ids: list[int]
    class_id: int
    key: str
    caption_index: int


@dataclass(frozen=True)
class Collate:
    """Stacks items into a `Batch` of fixed width `max_words`."""

    max_words: int

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Pad the captions with 0."""
        captions = torch.zeros(len(items), self.max_words, dtype=torch.int64)
        for row, item in zip(captions, items, strict=True):
            row[: len(item.ids)] = torch.tensor(item.ids)
        return Batch(
            images=torch.stack([item.image for item in items]),
            captions=captions,
            lengths=torch.tensor([len(item.ids) for item in items]),
            class_ids=torch.tensor([item.class_id for item in items]),
            keys=tuple(item.key for item in items),
            caption_indices=torch.tensor([item.caption_index for item in items]),
        )


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator whose stream depends on all the `numbers` and nothing else."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class TrainingView(Dataset[Item]):
    """A source as training sees it, indexed by (index, position).

    The choice of the caption, the thinning of an over-long one to a random subset of
    `max_words` words in order (as the originals do), the crop and the flip are drawn from a
    generator seeded with (seed, position) alone. A caption without a word gives way to the next.

    Raises:
        DataError: no caption of the image has a word of the vocabulary.
    """

    def __init__(
        self, source: Source, vocabulary: Vocabulary, *, size: int, max_words: int, seed: int
    ) -> None:
        _require_positive(size=size, max_words=max_words)
        self.source, self.vocabulary = source, vocabulary
        self.size, self.max_words, self.seed = size, max_words, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: tuple[int, int]) -> Item:
        index, position = place
        generator = seeded_generator(self.seed, position)
        caption_index, ids = self._draw_caption(index, generator)
        if len(ids) > self.max_words:
            order = torch.randperm(len(ids), generator=generator)[: self.max_words]
            ids = [ids[number] for number in order.sort().values.tolist()]
        image = self.source.image(index, self.size, generator=generator)
        return Item(image, ids, self.source.class_id(index), self.source.key(index), caption_index)

    def _draw_caption(self, index: int, generator: torch.Generator) -> tuple[int, list[int]]:
        captions = self.source.captions(index)
        if captions:
            first = int(torch.randint(len(captions), (), generator=generator))
            for offset in range(len(captions)):
                number = (first + offset) % len(captions)
                ids = self.vocabulary.encode(captions[number])
                if ids:
                    return number, ids
        raise DataError(
            f"image {self.source.key(index)!r} of {self.source.name} has no caption with a word: "
            "leave it out with --skip-broken (data.skip_broken=true) or write one"
        )


class EvaluationView(Dataset[Item]):
    """Every (image, caption) pair in order, without any randomness.

    Captions longer than `max_words` keep their first `max_words` words and are counted in
    `truncated`; captions without a word are left out and counted in `dropped`; `unknown` counts
    the captions with each word outside the vocabulary. All three are logged.
    """

    def __init__(
        self, source: Source, vocabulary: Vocabulary, *, size: int, max_words: int
    ) -> None:
        _require_positive(size=size, max_words=max_words)
        self.source, self.size = source, size
        self.truncated = self.dropped = 0
        self.unknown: Counter[str] = Counter()
        self._pairs: list[tuple[int, int, list[int]]] = []
        self._last: tuple[int, Tensor] | None = None
        for index in range(len(source)):
            for number, caption in enumerate(source.captions(index)):
                ids = vocabulary.encode(caption)
                self.truncated += len(ids) > max_words
                self.dropped += not ids
                self.unknown.update(vocabulary.unknown_words(caption))
                if ids:
                    self._pairs.append((index, number, ids[:max_words]))
        self._log_what_changed(max_words)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: int) -> Item:
        index, number, ids = self._pairs[place]
        if self._last is None or self._last[0] != index:
            # The captions of an image follow each other: decode it once.
            self._last = (index, self.source.image(index, self.size))
        return Item(self._last[1], ids, self.source.class_id(index), self.source.key(index), number)

    def _log_what_changed(self, max_words: int) -> None:
        common = ", ".join(word for word, _ in self.unknown.most_common(8))
        changes = (
            (self.truncated, f"captions cut to their first {max_words} words"),
            (self.dropped, "captions without a word of the vocabulary left out"),
            (len(self.unknown), f"words not in the vocabulary, most often {common}"),
        )
        for number, what in changes:
            if number:
                _log.info("%s %s: %d %s", self.source.name, self.source.split, number, what)


class PositionSampler(Sampler[tuple[int, int]]):
    """Endless (index, position) pairs for the positions start + rank, + world, + world and on.

    Position p is place p mod `length` of the shuffle of epoch p // `length`, which is derived from
    (seed, epoch): where a run starts and how many ranks share it does not change what p means.
    """

    def __init__(
        self, length: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        _require_positive(length=length, world=world)
        if start < 0 or not 0 <= rank < world:
            raise ValueError(
                f"start={start}, rank={rank}, world={world}: "
                "expected start of 0 or more and rank in 0..world-1"
            )
        self.length, self.seed = length, seed
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, torch.empty(0)
        for position in count(self.start + self.rank, self.world):
            if position // self.length != epoch:
                epoch = position // self.length
                # No position is negative: this stream is shared with no item.
                generator = seeded_generator(self.seed, -1 - epoch)
                order = torch.randperm(self.length, generator=generator)
            yield int(order[position % self.length]), position


def training_loader(
    source: Source,
    vocabulary: Vocabulary,
    *,
    size: int,
    max_words: int,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterable[Batch]:
    """Endless training batches of `batch_size` images for this rank.

    Batch n of all ranks together covers the positions n·batch_size·world and on; `start_batch`
    resumes there. The global random state is neither read nor changed.
    """
    _require_positive(batch_size=batch_size)
    if start_batch < 0:
        raise ValueError(f"start_batch is {start_batch}: expected 0 or more")
    start = start_batch * batch_size * world
    return DataLoader(
        TrainingView(source, vocabulary, size=size, max_words=max_words, seed=seed),
        batch_size=batch_size,
        sampler=PositionSampler(len(source), seed=seed, start=start, rank=rank, world=world),
        collate_fn=Collate(max_words),
        num_workers=workers,
        worker_init_fn=shield,
        pin_memory=torch.cuda.is_available(),
        # Without one of its own a DataLoader takes its base seed from the global generator.
        generator=torch.Generator(),
    )


def evaluation_loader(
    source: Source,
    vocabulary: Vocabulary,
    *,
    size: int,
    max_words: int,
    batch_size: int,
    workers: int = 0,
) -> DataLoader[Item]:
    """Batches of an `EvaluationView` (`.dataset`) in order; the last may be smaller."""
    _require_positive(batch_size=batch_size)
    return DataLoader(
        EvaluationView(source, vocabulary, size=size, max_words=max_words),
        batch_size=batch_size,
        collate_fn=Collate(max_words),
        num_workers=workers,
        worker_init_fn=shield,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def pyramid(images: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The images at every size of `sizes`, smallest first: (B, 3, s, s) each.

    The largest is `images` itself, the others are antialiased bilinear reductions of it.

    Raises:
        ValueError: `sizes` is not ascending or does not end with the side of `images`.
    """
    side = images.shape[-1]
    if not sizes or list(sizes) != sorted(sizes) or sizes[-1] != side or images.shape[-2] != side:
        raise ValueError(
            f"sizes {tuple(sizes)} for images of shape {tuple(images.shape)}: expected ascending "
            "sizes that end with the side of square images"
        )
    smaller = [
        F.interpolate(images, size=(s, s), mode="bilinear", align_corners=False, antialias=True)
        for s in sizes[:-1]
    ]
    return (*smaller, images)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: expected 1 or more")
