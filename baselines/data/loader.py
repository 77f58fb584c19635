"""Batches that depend on (seed, position) alone: the same for any worker count and any resume."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from baselines.data.source import DataError, Source, to_floats
from baselines.data.vocabulary import Vocabulary
from baselines.data.workers import PATIENCE, BatchLoader

WRONG = 1  # sets the stream of a position's wrong image apart from that of its item
TRIES = 32  # to find an image of another class
_log = logging.getLogger(__name__)
# So many broken images one after the other are no accident.
_SKIPPED = 100


@dataclass(frozen=True)
class Batch:
    """Captioned images.

    images: (B, 3, S, S) float32 in [-1, 1]; captions: (B, T) int64, zero-padded, T = max_words;
    lengths: (B,) int64 in 1..T; class_ids: (B,) int64; keys: of the images; caption_indices: (B,)
    place among the captions of the image; lengths_cpu: `lengths`, always on the CPU; wrong_images:
    (B, 3, S, S) of something else than the captions say, None where nobody asked for them.
    """

    images: Tensor
    captions: Tensor
    lengths: Tensor
    class_ids: Tensor
    keys: tuple[str, ...]
    caption_indices: Tensor
    lengths_cpu: Tensor = field(default=None)  # type: ignore[assignment]  # set below
    wrong_images: Tensor | None = None

    def __post_init__(self) -> None:
        if self.lengths_cpu is None:
            object.__setattr__(self, "lengths_cpu", self.lengths.cpu())

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """Every tensor but `lengths_cpu` on `device`, copied without waiting where possible."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in self._tensors().items()
            if name != "lengths_cpu"
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Page-locked copies, from which a GPU can be fed without waiting."""
        pinned: dict[str, Any] = {n: value.pin_memory() for n, value in self._tensors().items()}
        return replace(self, **pinned)

    def _tensors(self) -> dict[str, Tensor]:
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class Item(NamedTuple):
    """One captioned image; `ids` holds 1 to max_words word ids, not padded.

    image: (3, S, S), uint8 from a loader's view or already float32 in [-1, 1].
    """

    image: Tensor
    ids: list[int]
    class_id: int
    key: str
    caption_index: int
    wrong_image: Tensor | None = None


@dataclass(frozen=True)
class Collate:
    """Stacks items into a `Batch` of fixed width `max_words`."""

    max_words: int

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Pad the captions with 0."""
        captions = torch.zeros(len(items), self.max_words, dtype=torch.int64)
        for row, item in zip(captions, items, strict=True):
            row[: len(item.ids)] = torch.tensor(item.ids)
        wrong = [item.wrong_image for item in items if item.wrong_image is not None]
        return Batch(
            images=torch.stack([item.image for item in items]),
            captions=captions,
            lengths=torch.tensor([len(item.ids) for item in items]),
            class_ids=torch.tensor([item.class_id for item in items]),
            keys=tuple(item.key for item in items),
            caption_indices=torch.tensor([item.caption_index for item in items]),
            wrong_images=torch.stack(wrong) if wrong else None,
        )


def seeded_rng(*numbers: int) -> torch.Generator:
    """Seed a random stream with all the `numbers` and nothing else.

    >>> int(torch.randint(100, (), generator=seeded_rng(3, 1)))
    61
    """
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class TrainingView(Dataset[Item]):
    """A source as training sees it, indexed by (index, position).

    The choice of the caption, the thinning of an over-long one to a random subset of
    `max_words` words in order (as the originals do), the crop and the flip are drawn from a
    stream seeded with (seed, position) alone. A caption without a word gives way to the next. With
    `skip_broken` so does an image that cannot be had, with a warning.

    With `wrong_images` every item brings an image of another class as well, drawn uniformly from
    the source and augmented by itself, from a stream of its own: the items are otherwise the same.

    Raises:
        DataError: an image cannot be read, or none of its captions has a word of the vocabulary.
    """

    def __init__(
        self,
        source: Source,
        vocabulary: Vocabulary,
        *,
        size: int,
        max_words: int,
        seed: int,
        wrong_images: bool = False,
        skip_broken: bool = False,
    ) -> None:
        _require_positive(size=size, max_words=max_words)
        self.source, self.vocabulary = source, vocabulary
        self.size, self.max_words, self.seed = size, max_words, seed
        self.wrong_images = wrong_images
        self.skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: tuple[int, int]) -> Item:
        index, position = place
        for _ in range(_SKIPPED if self.skip_broken else 0):
            try:
                return self._item(index, position)
            except DataError as error:
                _log.warning("left out: %s", error)
                index = (index + 1) % len(self)
        return self._item(index, position)

    def _item(self, index: int, position: int) -> Item:
        rng = seeded_rng(self.seed, position)
        caption_index, ids = self._draw_caption(index, rng)
        if len(ids) > self.max_words:
            order = torch.randperm(len(ids), generator=rng)[: self.max_words]
            ids = [ids[number] for number in order.sort().values.tolist()]
        image = self.source.pixels(index, self.size, rng=rng)
        class_id, key = self.source.class_id(index), self.source.key(index)
        wrong = self._draw_wrong(class_id, position) if self.wrong_images else None
        return Item(image, ids, class_id, key, caption_index, wrong)

    def _draw_wrong(self, class_id: int, position: int) -> Tensor:
        """An image of another class; of any, where none turns up."""
        rng = seeded_rng(self.seed, position, WRONG)
        for _ in range(TRIES):
            other = int(torch.randint(len(self.source), (), generator=rng))
            if self.source.class_id(other) != class_id:
                break
        return self.source.pixels(other, self.size, rng=rng)

    def _draw_caption(self, index: int, rng: torch.Generator) -> tuple[int, list[int]]:
        captions = self.source.captions(index)
        if captions:
            first = int(torch.randint(len(captions), (), generator=rng))
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
            self._last = (index, self.source.pixels(index, self.size))
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

    Position p is place p mod `length` of the order of epoch p // `length`, which `order` draws from
    (seed, epoch), by default any order alike: where a run starts and how many ranks share it does
    not change what p means.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        order: Callable[[torch.Generator], Tensor] | None = None,
    ) -> None:
        _require_positive(length=length, world=world)
        if start < 0 or not 0 <= rank < world:
            raise ValueError(
                f"start={start}, rank={rank}, world={world}: "
                "expected start of 0 or more and rank in 0..world-1"
            )
        self.length, self.seed = length, seed
        self.start, self.rank, self.world = start, rank, world
        self.order = order or (lambda rng: torch.randperm(length, generator=rng))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, torch.empty(0)
        for position in count(self.start + self.rank, self.world):
            if position // self.length != epoch:
                epoch = position // self.length
                # No position is negative: this stream is shared with no item.
                rng = seeded_rng(self.seed, -1 - epoch)
                order = self.order(rng)
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
    wrong_images: bool = False,
    skip_broken: bool = False,
    device: torch.device | str = "cpu",
    patience: float = PATIENCE,
) -> BatchLoader[Batch]:
    """Endless training batches of `batch_size` images for this rank, on `device`.

    Batch n of all ranks together covers the positions n·batch_size·world and on; `start_batch`
    resumes there. The global random state is neither read nor changed.
    """
    _require_positive(batch_size=batch_size)
    if start_batch < 0:
        raise ValueError(f"start_batch is {start_batch}: expected 0 or more")
    start = start_batch * batch_size * world
    view = TrainingView(
        source,
        vocabulary,
        size=size,
        max_words=max_words,
        seed=seed,
        wrong_images=wrong_images,
        skip_broken=skip_broken,
    )
    sampler = PositionSampler(
        len(source), seed=seed, start=start, rank=rank, world=world, order=source.order
    )
    return BatchLoader(
        view,
        batch_size=batch_size,
        collate=Collate(max_words),
        finish=partial(finished, device=device),
        batch_bytes=(1 + wrong_images) * batch_bytes(batch_size, size, max_words),
        sampler=sampler,
        workers=workers,
        patience=patience,
    )


def evaluation_loader(
    source: Source,
    vocabulary: Vocabulary,
    *,
    size: int,
    max_words: int,
    batch_size: int,
    workers: int = 0,
) -> BatchLoader[Batch]:
    """Batches of an `EvaluationView` (`.dataset`) in order; the last may be smaller."""
    _require_positive(batch_size=batch_size)
    return BatchLoader(
        EvaluationView(source, vocabulary, size=size, max_words=max_words),
        batch_size=batch_size,
        collate=Collate(max_words),
        finish=partial(finished, device="cpu"),
        batch_bytes=batch_bytes(batch_size, size, max_words),
        workers=workers,
    )


def finished(batch: Batch, device: torch.device | str) -> Batch:
    """Move a batch to `device` as uint8, then make floats of its pixels there."""
    batch = batch.to(device)
    wrong = None if batch.wrong_images is None else to_floats(batch.wrong_images)
    return replace(batch, images=to_floats(batch.images), wrong_images=wrong)


def batch_bytes(batch_size: int, size: int, max_words: int) -> int:
    """What a batch takes between processes: uint8 pixels, int64 words, a page for each tensor."""
    return batch_size * (3 * size * size + 8 * max_words + 3 * 8) + 6 * 4096


def pyramid(images: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Reduce images to every size of `sizes`, smallest first: (B, 3, s, s) each.

    The largest is `images` itself, the others are antialiased bilinear reductions of it.

    >>> [tuple(level.shape) for level in pyramid(torch.zeros(2, 3, 32, 32), (16, 32))]
    [(2, 3, 16, 16), (2, 3, 32, 32)]

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
