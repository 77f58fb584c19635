"""Captioned images: sources, vocabulary, scan and batches.

`SOURCES` is the only list of data sets: a new one is a file with a class and a line here.
"""

from typing import TYPE_CHECKING, Any

from baselines.data.opening import SourceEntry, build_vocabulary, find_source, open_source
from baselines.data.source import BaseSource, DataError, Source

# The tokeniser's library takes its time, and the names of data sets are asked for by --help.
if TYPE_CHECKING:
    from baselines.data.vocabulary import Vocabulary, VocabularyMismatchError, tokenize

SOURCES = {
    "scenes": SourceEntry("baselines.data.scenes:Scenes", "coloured shapes, drawn on the fly"),
    "cub": SourceEntry("baselines.data.cub:Cub", "CUB-200-2011, birds with ten captions each"),
    "coco": SourceEntry("baselines.data.coco:Coco", "MS-COCO 2014, everyday scenes"),
    "folder": SourceEntry(
        "baselines.data.folder:Folder", "your images with a metadata.jsonl", tokens="unicode"
    ),
    "webdataset": SourceEntry(
        "baselines.data.webdataset:WebDataset",
        "tar shards as img2dataset writes them",
        tokens="unicode",
    ),
}

__all__ = [
    "SOURCES",
    "BaseSource",
    "DataError",
    "Source",
    "SourceEntry",
    "Vocabulary",
    "VocabularyMismatchError",
    "build_vocabulary",
    "find_source",
    "open_source",
    "tokenize",
]


def __getattr__(name: str) -> Any:
    """Import what belongs to the vocabulary when it is first used."""
    if name in __all__:
        from baselines.data import vocabulary

        return getattr(vocabulary, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
