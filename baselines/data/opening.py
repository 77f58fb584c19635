"""From the configuration to a source and its vocabulary."""

from __future__ import annotations

import difflib

from baselines.config import DataConfig
from baselines.data.files import SPLITS
from baselines.data.scenes import Scenes
from baselines.data.source import DataError, Source
from baselines.data.vocabulary import Vocabulary

NAMES = ("scenes", "cub", "coco", "folder")


def open_source(data: DataConfig, split: str) -> Source:
    """The images and captions that `data` describes; split is "train" or "test".

    Raises:
        DataError: unknown name or split, or the files are missing or malformed.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if data.name not in NAMES:
        near = difflib.get_close_matches(data.name, NAMES, n=1, cutoff=0.4)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise DataError(f"data.name is {data.name!r}: expected {', '.join(NAMES)}{hint}")
    # Each import only when wanted: one data set must not fail for want of another's needs.
    if data.name == "scenes":
        images = data.train_images if split == "train" else data.test_images
        return Scenes(split, seed=data.seed, images=images, max_objects=data.max_objects)
    if data.name == "cub":
        from baselines.data.cub import Cub

        return Cub(data.root, split, captions_per_image=data.captions_per_image)
    if data.name == "coco":
        from baselines.data.coco import Coco

        return Coco(data.root, split, captions_per_image=data.captions_per_image)
    from baselines.data.folder import Folder

    return Folder(
        data.root,
        split,
        split_file=data.split_file,
        captions_per_image=data.captions_per_image,
    )


def build_vocabulary(source: Source, min_count: int = 1) -> Vocabulary:
    """The words of the training split that occur at least `min_count` times.

    A source that draws its captions tells all of its words at once (`vocabulary_captions`).

    Raises:
        DataError: `source` is not the training split: words of the test split would leak.
        ValueError: no word is left.
    """
    if source.split != "train":
        raise DataError(
            f"the vocabulary is built from the training split, not from {source.split!r}"
        )
    if isinstance(source, Scenes):
        # Drawn from templates: the words are known without drawing up every scene.
        return Vocabulary.build(source.vocabulary_captions(), min_count)
    drawn = getattr(source, "vocabulary_captions", None)
    if drawn is not None:
        return Vocabulary.build(drawn())
    captions = (caption for index in range(len(source)) for caption in source.captions(index))
    return Vocabulary.build(captions, min_count)
