"""Looks at every image and caption before training starts, and reports all problems together."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from baselines import files
from baselines.console import printable
from baselines.data.files import Record
from baselines.data.source import BaseSource, DataError, Problem, SceneFacts, Source, digest
from baselines.data.vocabulary import (
    Vocabulary,
    VocabularyMismatchError,
    lost_letters,
    tokenize,
)

_log = logging.getLogger(__name__)
_SHOWN = 50
_CHUNK = 64
Stays = TypeVar("Stays")


class BrokenDataError(DataError):
    """A scan found problems; the message names them all, up to 50 of a kind."""


class FilteredSource(BaseSource):
    """A source without some of its images and captions.

    Args:
        source: the whole.
        indices: the images that stay, in order.
        dropped: index in `source` → numbers of the captions that go.
    """

    def __init__(
        self, source: Source, indices: Sequence[int], dropped: dict[int, set[int]]
    ) -> None:
        super().__init__(source.name, source.split, tokens=source.tokens)
        self.source, self.indices, self.dropped = source, tuple(indices), dropped
        self.notes = source.notes

    def __len__(self) -> int:
        return len(self.indices)

    def pixels(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """See `Source.pixels`."""
        return self.source.pixels(self.indices[index], size, rng=rng)

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions that stay."""
        return self._staying(index, self.source.captions(self.indices[index]))

    def class_id(self, index: int) -> int:
        """See `Source.class_id`."""
        return self.source.class_id(self.indices[index])

    def key(self, index: int) -> str:
        """See `Source.key`."""
        return self.source.key(self.indices[index])

    def order(self, rng: torch.Generator) -> Tensor:
        """The order of the whole source without what is left out."""
        place = torch.full((len(self.source),), -1)
        place[torch.tensor(self.indices)] = torch.arange(len(self))
        order = place[self.source.order(rng)]
        return order[order >= 0]

    @property
    def fingerprint(self) -> str:
        """Of the whole source's and what is left out."""
        dropped = [[index, sorted(gone)] for index, gone in sorted(self.dropped.items())]
        return digest([self.source.fingerprint, self.indices, dropped])

    @property
    def scanned(self) -> Sequence[int]:
        """What stays of the images that the whole source would have looked at."""
        looked_at = set(self.source.scanned)
        return [place for place, index in enumerate(self.indices) if index in looked_at]

    def verify(self, index: int) -> list[Problem]:
        """See `Source.verify`."""
        return self.source.verify(self.indices[index])

    def vocabulary_captions(self) -> Iterable[str] | None:
        """See `Source.vocabulary_captions`."""
        return self.source.vocabulary_captions()

    def scene_facts(self, index: int) -> SceneFacts | None:
        """The facts of an image, of the captions that stay."""
        facts = self.source.scene_facts(self.indices[index])
        return facts and facts._replace(captions=self._staying(index, facts.captions))

    def record(self, index: int) -> Record | None:
        """See `Source.record`."""
        return self.source.record(self.indices[index])

    def content(self, index: int) -> bytes:
        """See `Source.content`."""
        return self.source.content(self.indices[index])

    def _staying(self, index: int, captions: Sequence[Stays]) -> tuple[Stays, ...]:
        gone = self.dropped.get(self.indices[index], ())
        return tuple(caption for number, caption in enumerate(captions) if number not in gone)


@dataclass(frozen=True)
class ScanReport:
    """What a scan found; `problems` holds (index of the image, problem) in order.

    captions: how many are usable; words: how many they have together; unknown: occurrences of
    words outside the vocabulary given to the scan; lost: how often which (word as written, as read)
    lost letters; notes: what the source says about how it was read.
    """

    source: Source
    captions: int
    problems: tuple[tuple[int, Problem], ...] = ()
    words: int = 0
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
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

    @property
    def unknown_share(self) -> float:
        """The share of the words in captions that the vocabulary does not have."""
        return self.unknown.total() / self.words if self.words else 0.0

    def require_known_words(self, limit: float) -> None:
        """Refuse a vocabulary that was made for other captions.

        Raises:
            VocabularyMismatchError: more than the share `limit` of the words is outside it.
        """
        if self.unknown_share > limit:
            raise VocabularyMismatchError(
                f"{self.unknown_share:.0%} of the words in the captions of {self.source.name} "
                f"{self.source.split} are unknown to the encoders ({len(self.unknown)} different "
                f"ones: {self._common_unknown()}): they were trained on other data. Train encoders "
                "on these (python -m baselines.damsm), or raise data.max_unknown"
            )

    def _common_unknown(self) -> str:
        shown = ", ".join(word for word, _ in self.unknown.most_common(8))
        return shown + ", …" * (len(self.unknown) > 8)

    def summary(self) -> str:
        """A few lines for people: sizes, notes, unknown words, counts of problems."""
        source = self.source
        lines = [f"{source.name} {source.split}: {len(source)} images, {self.captions} captions"]
        lines += [f"  {note}" for note in self.notes]
        if self.unknown:
            lines.append(
                f"  {len(self.unknown)} words ({self.unknown.total()} occurrences) are not in the "
                f"vocabulary: {self._common_unknown()}"
            )
        if self.lost:
            pairs = self.lost.most_common(4)
            shown = ", ".join(f"{written!r} → {read!r}" for (written, read), _ in pairs)
            lines.append(
                f"  {len(self.lost)} words ({self.lost.total()} occurrences) lose letters outside "
                f"ASCII: {shown}{', …' * (len(self.lost) > 4)}; data.tokens=unicode keeps them"
            )
        lines += [f"  {count} × {kind}" for kind, count in self.counts.items()]
        return "\n".join(lines)

    def details(self, limit: int | None = None) -> str:
        """Every problem on a line of its own by kind, at most `limit` of each kind."""
        lines = []
        for kind, count in self.counts.items():
            lines.append(f"{kind} ({count}):")
            found = [problem for _, problem in self.problems if problem.kind == kind]
            lines += [printable(f"  {problem.key}: {problem.detail}") for problem in found[:limit]]
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
        return FilteredSource(self.source, kept, dropped)


@dataclass
class _Finding:
    problems: list[Problem]
    captions: int = 0
    words: int = 0
    unknown: list[str] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)


def scan(
    source: Source,
    vocabulary: Vocabulary | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> ScanReport:
    """Check every image file, box, caption and key of a source.

    Images are decoded to the last byte, by `workers` threads (default: one per CPU); a source may
    choose which it has looked at (`Source.scanned`). With a vocabulary the words outside it are
    counted. A progress bar is drawn on terminals unless `progress` is False. The summary is logged.
    """
    indices = source.scanned
    problems: list[tuple[int, Problem]] = []
    unknown: Counter[str] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    captions = words = 0
    first_of: dict[str, int] = {}
    with tqdm(
        total=len(indices),
        desc=f"scanning {source.name} {source.split}",
        unit="image",
        disable=None if progress else True,
    ) as bar:
        findings = _examine_all(source, vocabulary, indices, workers)
        for index, finding in zip(indices, findings, strict=True):
            first = first_of.setdefault(source.key(index), index)
            if first != index:
                detail = f"image {index} has the name of image {first}; join their captions"
                finding.problems.append(Problem("duplicate name", source.key(index), detail))
            problems += [(index, problem) for problem in finding.problems]
            captions += finding.captions
            words += finding.words
            unknown.update(finding.unknown)
            lost.update(finding.lost)
            bar.update()
    report = ScanReport(
        source, captions, tuple(problems), words, lost=lost, unknown=unknown, notes=source.notes
    )
    _log.info(report.summary())
    return report


def _examine_all(
    source: Source, vocabulary: Vocabulary | None, indices: Sequence[int], workers: int | None
) -> Iterator[_Finding]:
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for findings in pool.map(partial(_examine_chunk, source, vocabulary), chunks):
            yield from findings


def _examine_chunk(
    source: Source, vocabulary: Vocabulary | None, indices: Sequence[int]
) -> list[_Finding]:
    return [_examine(source, vocabulary, index) for index in indices]


def _examine(source: Source, vocabulary: Vocabulary | None, index: int) -> _Finding:
    problems = list(source.verify(index))
    key, captions = source.key(index), source.captions(index)
    if not captions and not any("captions" in problem.kind for problem in problems):
        problems.append(Problem("missing captions", key, "the image has no caption"))
    rule = source.tokens if vocabulary is None else vocabulary.tokens
    finding = _Finding(problems)
    for number, caption in enumerate(captions):
        tokens = tokenize(caption, rule)
        finding.captions += bool(tokens)
        finding.words += len(tokens)
        finding.lost += lost_letters(caption, rule)
        if not caption.strip():
            problems.append(Problem("empty caption", key, f"caption {number + 1}", number))
        elif not tokens:
            detail = f"caption {number + 1}, {caption[:60]!r}, has no word"
            problems.append(Problem("caption without words", key, detail, number))
        elif vocabulary is not None:
            finding.unknown += [token for token in tokens if token not in vocabulary]
    return finding
