"""Captions that a run has not been trained on, with their real images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from baselines.data import DataError, open_source
from baselines.data.source import Source
from baselines.errors import UserError
from baselines.sampling.pipeline import EncodedCaption, Pipeline, read_caption


class HeldOut(NamedTuple):
    """A caption as the model reads it, and its real image (3, S, S) in [-1, 1]."""

    caption: EncodedCaption
    image: Tensor


def test_source(pipeline: Pipeline) -> Source:
    """Open the test split of a run.

    Raises:
        DataError: the data set of the run is not where the run found it.
    """
    try:
        return open_source(pipeline.run.config.data, "test")
    except (UserError, OSError) as error:
        raise DataError(f"the test split of {pipeline.run.directory}: {error}") from error


def held_out(pipeline: Pipeline, count: int) -> list[HeldOut]:
    """Up to `count` captions of the run's test split, spread evenly over its images.

    Of every image the first caption of which the run knows a word; an image without one is left
    out.

    Raises:
        DataError: as of `test_source`.
    """
    source = test_source(pipeline)
    max_words, found = pipeline.run.config.data.max_words, []
    for place in range(min(count, len(source))):
        index = place * len(source) // min(count, len(source))
        for text in source.captions(index):
            caption = read_caption(text, pipeline.vocabulary, max_words)
            if any(word in pipeline.vocabulary for word in caption.words):
                image = source.image(index, pipeline.image_sizes[-1])
                found.append(HeldOut(caption, image))
                break
    return found
