"""The files of the AttnGAN family: `captions.pickle` to and from our vocabulary."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from baselines import files
from baselines.data.reading import quoted
from baselines.data.restricted_pickle import load_pickle
from baselines.data.source import DataError
from baselines.data.vocabulary import END, UNKNOWN, Vocabulary


class OriginalCaptions(NamedTuple):
    """A `captions.pickle`: its vocabulary and the captions of both splits as word ids."""

    vocabulary: Vocabulary
    train: list[list[int]]
    test: list[list[int]]


def vocabulary_from_captions_pickle(path: str | Path) -> OriginalCaptions:
    """Read `captions.pickle`: [train captions, test captions, id→word, word→id].

    The ids stay what they are, so an original text encoder goes on working: `unknown=False`,
    unless the file was written by `save_captions_pickle` from a vocabulary with `<unk>`.

    Raises:
        DataError: the file is not of that form; says where.
        UnsafePickleError: it asks for more than plain data.
    """
    content = load_pickle(path)
    if not isinstance(content, (list, tuple)) or len(content) != 4:
        raise DataError(f"{path} is no captions.pickle: expected a list of four entries")
    train, test, words, ids = content
    if not isinstance(words, dict) or not isinstance(ids, dict):
        raise DataError(f"{path} is no captions.pickle: entries 2 and 3 are not dictionaries")
    for number in range(len(words)):
        if not isinstance(words.get(number), str):
            raise DataError(
                f"{path}: id→word must number the words from 0, but {number} is "
                f"{quoted(words.get(number, 'missing'))}"
            )
    if words.get(0) != END:
        raise DataError(f"{path}: word 0 must be {END!r}, not {quoted(words.get(0))}")
    if not all(isinstance(number, int) for number in ids.values()) or (
        ids != {word: number for number, word in words.items()}
    ):
        raise DataError(f"{path}: word→id is not the inverse of id→word")
    ordered = [words[number] for number in range(1, len(words))]
    unknown = ordered[:1] == [UNKNOWN]
    vocabulary = Vocabulary(ordered[1:] if unknown else ordered, unknown=unknown)
    return OriginalCaptions(
        vocabulary,
        *(_id_lists(path, name, c, len(words)) for name, c in (("train", train), ("test", test))),
    )


def _id_lists(path: str | Path, split: str, captions: Any, size: int) -> list[list[int]]:
    if not isinstance(captions, (list, tuple)):
        raise DataError(f"{path}: the {split} captions are no list but {type(captions).__name__}")
    for number, caption in enumerate(captions):
        sequence = isinstance(caption, (list, tuple, np.ndarray))
        if not sequence or not all(
            isinstance(word, (int, np.integer)) and 0 <= word < size for word in caption
        ):
            raise DataError(f"{path}: {split} caption {number} is no list of ids below {size}")
    return [[int(word) for word in caption] for caption in captions]


def save_captions_pickle(
    path: str | Path,
    vocabulary: Vocabulary,
    train: Sequence[Sequence[int]],
    test: Sequence[Sequence[int]],
) -> None:
    """Write the `captions.pickle` that the original code needs beside an exported text encoder.

    Ids stay ours; id 0 gets the original's name `<end>`.
    """
    words = dict(enumerate((END, *vocabulary.words[1:])))
    ids = {word: number for number, word in words.items()}
    content = [[list(c) for c in train], [list(c) for c in test], words, ids]
    files.write_bytes(Path(path), pickle.dumps(content, protocol=2))
