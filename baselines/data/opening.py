"""From the configuration to a source and its vocabulary."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from baselines.config import DataConfig
from baselines.data.source import DataError, Source, require_split

if TYPE_CHECKING:
    from baselines.data.vocabulary import Vocabulary

_log = logging.getLogger(__name__)


class SourceEntry(NamedTuple):
    """One line of the list of data sets.

    place: "module:class"; the class has `open(data: DataConfig, split: str) -> Source`. It is
    imported only when it is wanted: one data set must not fail for want of another's needs.
    summary: what `--help` and README say of it. tokens: how its captions are split into words
    unless `data.tokens` says so.
    """

    place: str
    summary: str
    tokens: str = "ascii"

    def open(self, data: DataConfig, split: str) -> Source:
        """The split of the data set."""
        if data.tokens == "auto":
            data = dataclasses.replace(data, tokens=self.tokens)
        module, _, name = self.place.partition(":")
        source: Source = getattr(import_module(module), name).open(data, split)
        return source


def find_source(name: str) -> SourceEntry:
    """The entry of a data set.

    Raises:
        DataError: there is none of this name; says which there are and which is nearest.
    """
    # The list lies in the package, which imports this module.
    from baselines.data import SOURCES

    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.4)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise DataError(f"data.name is {name!r}: expected {', '.join(SOURCES)}{hint}")
    return SOURCES[name]


def open_source(data: DataConfig, split: str) -> Source:
    """Open the images and captions that `data` describes; split is "train" or "test".

    >>> open_source(DataConfig(name="scenes", test_images=12), "test")
    Scenes(test, 12 images)

    Raises:
        DataError: unknown name or split, or the files are missing or malformed.
    """
    require_split(split)
    return find_source(data.name).open(data, split)


def build_vocabulary(source: Source, min_count: int = 1) -> Vocabulary:
    """Number the words of the training split.

    Words of captions must occur at least `min_count` times. A source that can name its words
    without reading all captions (`Source.vocabulary_captions`, such as the templates of scenes)
    keeps all of them: how often a word stands in a template says nothing about the data.

    Raises:
        DataError: `source` is not the training split: words of the test split would leak.
        UserError: no word is left.
    """
    from baselines.data.vocabulary import Vocabulary

    if source.split != "train":
        raise DataError(
            f"the vocabulary is built from the training split, not from {source.split!r}"
        )
    told = source.vocabulary_captions()
    if told is not None:
        if min_count > 1:
            _log.warning(
                "data.min_count=%d does not apply to %s, which tells its words without counting",
                min_count,
                source.name,
            )
        return Vocabulary.build(told, tokens=source.tokens)
    captions = (caption for index in range(len(source)) for caption in source.captions(index))
    return Vocabulary.build(captions, min_count, source.tokens)
