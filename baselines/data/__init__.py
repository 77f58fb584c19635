"""Captioned images: sources, vocabulary, scan and batches."""

from baselines.data.opening import build_vocabulary, open_source
from baselines.data.source import DataError, Source
from baselines.data.vocabulary import Vocabulary, VocabularyMismatchError, tokenize

__all__ = [
    "DataError",
    "Source",
    "Vocabulary",
    "VocabularyMismatchError",
    "build_vocabulary",
    "open_source",
    "tokenize",
]
