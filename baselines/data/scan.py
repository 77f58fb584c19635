"""Looks at every image and caption before training starts, and reports all problems together."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from baselines import files
from baselines.data.files import Problem
from baselines.data.source import DataError, Source
from baselines.data.vocabulary import Vocabulary, tokenize

_log = logging.getLogger(__name__)
_SHOWN = 50
_DRAWN = 256
_CHUNK = 64


class BrokenDataError(DataError):
    """A scan found problems; the message names them all, up to 50 of a kind."""


class Kept:
    """A source without some of its images and captions.

    Args:
        source: the whole.
        indices: the images that stay, in order.
        dropped: index in `source` → numbers of the captions that go.
    """

    def __init__(
        self, source: Source, indices: Sequence[int], dropped: dict[int, set[int]]
    ) -> None:
        self.source, self.indices, self.dropped = source, tuple(indices), dropped
        self.name, self.split = source.name, source.split

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int, size: int, *, generator: torch.Generator | None = None) -> Tensor:
        """See `Source.image`."""
        return self.source.image(self.indices[index], size, generator=generator)

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions that stay."""
        captions = self.source.captions(self.indices[index])
        gone = self.dropped.get(self.indices[index], ())
        return tuple(caption for number, caption in enumerate(captions) if number not in gone)

    def class_id(self, index: int) -> int:
        """See `Source.class_id`."""
        return self.source.class_id(self.indices[index])

    def key(self, index: int) -> str:
        """See `Source.key`."""
        return self.source.key(self.indices[index])


@dataclass(frozen=True)
class ScanReport:
    """What a scan found; `problems` holds (index of the image, problem) in order.

    `captions` counts the usable ones, `unknown` the occurrences of words outside the vocabulary
    given to the scan, `notes` what the source says about how it was read.
    """

    source: Source
    captions: int
    problems: tuple[tuple[int, Problem], ...] = ()
    unknown: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is broken; unknown words break nothing."""
        return not self.problems

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind."""
        return dict(Counter(problem.kind for _, problem in self.problems))

    def summary(self) -> str:
        """A few lines for people: sizes, notes, unknown words, counts of problems."""
        source = self.source
        lines = [f"{source.name} {source.split}: {len(source)} images, {self.captions} captions"]
        lines += [f"  {note}" for note in self.notes]
        if self.unknown:
            shown = ", ".join(word for word, _ in self.unknown.most_common(8))
            lines.append(
                f"  {len(self.unknown)} words ({self.unknown.total()} occurrences) are not in the "
                f"vocabulary: {shown}{', …' * (len(self.unknown) > 8)}"
            )
        lines += [f"  {count} × {kind}" for kind, count in self.counts.items()]
        return "\n".join(lines)

    def details(self, limit: int | None = None) -> str:
        """Every problem on a line of its own by kind, at most `limit` of each kind."""
        lines = []
        for kind, count in self.counts.items():
            lines.append(f"{kind} ({count}):")
            found = [problem for _, problem in self.problems if problem.kind == kind]
            lines += [f"  {problem.key}: {problem.detail}" for problem in found[:limit]]
            if limit is not None and count > limit:
                lines.append(f"  … and {count - limit} more")
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Save the summary and every problem as text."""
        files.write_text(Path(path), f"{self.summary()}\n{self.details()}\n")

    def raise_if_broken(self) -> None:
        """Refuse to go on with a broken data set.

        Raises:
            BrokenDataError: there are problems.
        """
        if self.problems:
            images = len({index for index, _ in self.problems})
            raise BrokenDataError(
                f"{self.source.name} {self.source.split}: {len(self.problems)} problems with "
                f"{images} of {len(self.source)} images\n{self.details(_SHOWN)}\n"
                "mend them, or train without them: --skip-broken (data.skip_broken=true)"
            )

    def skip(self) -> Source:
        """The source without what is broken: a broken caption goes alone, else the whole image.

        Raises:
            BrokenDataError: nothing would be left.
        """
        if not self.problems:
            return self.source
        gone = {index for index, problem in self.problems if problem.caption is None}
        dropped: dict[int, set[int]] = {}
        for index, problem in self.problems:
            if problem.caption is not None:
                dropped.setdefault(index, set()).add(problem.caption)
        gone |= {
            i for i, numbers in dropped.items() if len(numbers) == len(self.source.captions(i))
        }
        kept = [index for index in range(len(self.source)) if index not in gone]
        if not kept:
            raise BrokenDataError(
                f"{self.source.name} {self.source.split}: every image is broken\n"
                f"{self.details(_SHOWN)}\ncheck data.root"
            )
        _log.warning(
            "%s %s: %d of %d images stay, %d captions left out\n%s",
            self.source.name,
            self.source.split,
            len(kept),
            len(self.source),
            sum(len(numbers) for index, numbers in dropped.items() if index not in gone),
            self.details(_SHOWN),
        )
        return Kept(self.source, kept, dropped)


class _Finding(NamedTuple):
    problems: list[Problem]
    captions: int
    unknown: list[str]


def scan(
    source: Source,
    vocabulary: Vocabulary | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> ScanReport:
    """Check every image file, box, caption and key of a source.

    Images are decoded to the last byte, by `workers` threads (default: one per CPU). A source
    without files has no `verify`; its captions are checked all the same, the first ones only where
    it draws them (`vocabulary_captions`). With a vocabulary the words outside it are counted. A
    progress bar is drawn on terminals unless `progress` is False. The summary is logged.
    """
    notes = tuple(getattr(source, "notes", ()))
    count = len(source)
    if hasattr(source, "vocabulary_captions") and count > _DRAWN:
        notes, count = (*notes, f"drawn on the fly, so only the first {_DRAWN} checked"), _DRAWN
    problems: list[tuple[int, Problem]] = []
    unknown: Counter[str] = Counter()
    captions = 0
    first_of: dict[str, int] = {}
    with tqdm(
        total=count,
        desc=f"scanning {source.name} {source.split}",
        unit="image",
        disable=None if progress else True,
    ) as bar:
        for index, finding in enumerate(_examine_all(source, vocabulary, count, workers)):
            first = first_of.setdefault(source.key(index), index)
            if first != index:
                detail = f"image {index} has the name of image {first}; join their captions"
                finding.problems.append(Problem("duplicate name", source.key(index), detail))
            problems += [(index, problem) for problem in finding.problems]
            captions += finding.captions
            unknown.update(finding.unknown)
            bar.update()
    report = ScanReport(source, captions, tuple(problems), unknown, notes)
    _log.info(report.summary())
    return report


def _examine_all(
    source: Source, vocabulary: Vocabulary | None, count: int, workers: int | None
) -> Iterator[_Finding]:
    starts = range(0, count, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, count)) for start in starts]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for findings in pool.map(partial(_examine_chunk, source, vocabulary), chunks):
            yield from findings


def _examine_chunk(
    source: Source, vocabulary: Vocabulary | None, indices: Sequence[int]
) -> list[_Finding]:
    return [_examine(source, vocabulary, index) for index in indices]


def _examine(source: Source, vocabulary: Vocabulary | None, index: int) -> _Finding:
    verify = getattr(source, "verify", None)
    problems: list[Problem] = list(verify(index)) if verify else []
    key, captions = source.key(index), source.captions(index)
    if not captions and not any("captions" in problem.kind for problem in problems):
        problems.append(Problem("missing captions", key, "the image has no caption"))
    usable, unknown = 0, []
    for number, caption in enumerate(captions):
        tokens = tokenize(caption)
        usable += bool(tokens)
        if not caption.strip():
            problems.append(Problem("empty caption", key, f"caption {number + 1}", number))
        elif not tokens:
            detail = f"caption {number + 1}, {caption[:60]!r}, has no word"
            problems.append(Problem("caption without words", key, detail, number))
        elif vocabulary is not None:
            unknown += [token for token in tokens if token not in vocabulary]
    return _Finding(problems, usable, unknown)
