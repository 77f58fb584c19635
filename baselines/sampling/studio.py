"""Several runs beside each other: one caption, one noise, and what a word does in each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from baselines.errors import UserError
from baselines.pictures.grids import (
    change_heat,
    layout_overlay,
    share_and_peak,
    to_picture,
)
from baselines.sampling.pipeline import (
    CaptionError,
    Drawings,
    EncodedCaption,
    Pipeline,
    read_caption,
)

SIDE = 256  # least height in pixels of what is shown
KEPT = 24  # drawings that are kept for the next question about them
MAX_SAMPLES = 8
MAX_LETTERS = 1000
# Words whose place says little of a picture: none of them is shown first.
FUNCTION_WORDS = {
    "a", "an", "the", "this", "that", "it", "its", "there", "is", "are", "has", "with", "and", "of",
    "on", "in", "at", "to", "you", "can", "see", "picture", "shows",
}  # fmt: skip


class Prompt(NamedTuple):
    """What is drawn: a caption, and the noise of the samples 0, 1, ... of a seed."""

    text: str
    seed: int = 0
    samples: int = 1


class CaptionWord(NamedTuple):
    """A word of a caption as it is read, and the names of the runs that do not know it."""

    text: str
    unknown_to: tuple[str, ...]


class Overlay(NamedTuple):
    """Where one refinement stage puts a word: regions "h × w", the picture, its mean and peak."""

    regions: str
    picture: Image.Image
    numbers: str


class Edit(NamedTuple):
    """A run's picture before and after a word of the caption was replaced.

    difference: black where nothing changed, brightest where a colour changed by half of all it
    could; mean: of the change, in 0..255; overlays: of the word before and of the first that
    replaces it after, at the last stage, where there is one.
    """

    before: Image.Image
    after: Image.Image
    difference: Image.Image
    mean: float
    overlays: tuple[tuple[str, Overlay], ...]


class Studio:
    """Draws captions with several runs; one drawing at a time, however many people ask.

    The newest drawings are kept, so that the second question about one is answered at once; as a
    drawing depends on run and prompt alone, nobody can tell.

    Args:
        pipelines: the runs by the name they are shown under, at least one.

    Raises:
        UserError: there is no run.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        if not pipelines:
            raise UserError("no run: give at least one run directory")
        self.pipelines = dict(pipelines)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, Prompt], Drawings] = OrderedDict()

    @property
    def same_noise(self) -> bool:
        """Whether all runs take noise of the same widths: only then can it be the same noise."""
        models = [pipeline.run.config.model for pipeline in self.pipelines.values()]
        return len({(model.noise_dim, model.condition_dim) for model in models}) == 1

    def draw(self, name: str, prompt: Prompt) -> Drawings:
        """All samples of `prompt`, drawn by the run called `name`.

        Raises:
            CaptionError: the caption is empty, or the run knows no word of it.
            UserError: a caption too long, a number of samples out of range, or memory is short.
        """
        if len(prompt.text) > MAX_LETTERS:
            raise UserError(
                f"a caption of {len(prompt.text)} letters: expected {MAX_LETTERS} at most"
            )
        if not 1 <= prompt.samples <= MAX_SAMPLES:
            raise UserError(f"{prompt.samples} samples: expected 1 to {MAX_SAMPLES}")
        with self._lock:
            if (name, prompt) not in self._kept:
                self._kept[name, prompt] = self._generate(self.pipelines[name], prompt)
            self._kept.move_to_end((name, prompt))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[name, prompt]

    @staticmethod
    def _generate(pipeline: Pipeline, prompt: Prompt) -> Drawings:
        try:
            return pipeline.generate(prompt.text, seed=prompt.seed, samples=prompt.samples)
        except torch.OutOfMemoryError:
            raise UserError(
                f"samples={prompt.samples}: more than the memory of {pipeline.device} holds; "
                "ask for fewer"
            ) from None

    def read(self, name: str, text: str) -> EncodedCaption:
        """A caption as the run called `name` reads it."""
        pipeline = self.pipelines[name]
        return read_caption(text, pipeline.vocabulary, pipeline.run.config.data.max_words)

    def words(self, text: str) -> list[CaptionWord]:
        """The words of a caption as the first run splits it."""
        return [
            CaptionWord(
                word,
                tuple(name for name, run in self.pipelines.items() if word not in run.vocabulary),
            )
            for word in self._split(text)
        ]

    def _split(self, text: str) -> list[str]:
        first, *_ = self.pipelines.values()
        return first.vocabulary.split(text)

    def clearest_word(self, prompt: Prompt) -> int:
        """The number of the word whose place is the most decided, of the first run that tells.

        That is the greatest ratio of peak to mean in the last layout, among the words that name
        something if there are any; the last word where no run has layouts.
        """
        words = [word.text for word in self.words(prompt.text)]
        named = [n for n, word in enumerate(words) if word not in FUNCTION_WORDS]
        numbers = named or list(range(len(words)))
        for name in [n for n, pipeline in self.pipelines.items() if pipeline.has_layouts]:
            try:
                drawings = self.draw(name, prompt)
            except CaptionError:
                continue
            layout, caption = drawings.layouts[-1][0], drawings.captions[0]
            return max(numbers, key=lambda n: _decided(layout, place_of(caption, words, n)))
        return numbers[-1]

    def pictures(self, name: str, prompt: Prompt) -> list[Image.Image]:
        """The samples of a run, at least `SIDE` high."""
        return [_shown(image) for image in self.draw(name, prompt).images[-1]]

    def overlays(self, name: str, prompt: Prompt, sample: int, number: int) -> list[Overlay]:
        """Where a run puts word `number` of the caption, one overlay per refinement stage.

        The colour scale is common to all words of a stage, as on the sheets of `sample`.

        Raises:
            UserError: the run has no layouts, or has left the word out.
        """
        pipeline = self.pipelines[name]
        if not pipeline.has_layouts:
            raise UserError(
                f"{pipeline.run.config.model.name} has no stage that reads words: "
                "it does not tell where it puts them"
            )
        drawings = self.draw(name, prompt)
        words = [word.text for word in self.words(prompt.text)]
        caption = drawings.captions[sample]
        place = place_of(caption, words, number)
        if place is None:
            cut = f", as all behind word {len(caption.words)}" if caption.cut else ""
            raise UserError(f"left out by this run: {words[number]!r}{cut}")
        image = drawings.images[-1][sample]
        overlays = []
        for stage in drawings.layouts:
            layout = stage[sample, : len(caption.words)]
            pixels = layout_overlay(image, layout, _side(image))[place]
            height, width = layout.shape[-2:]
            numbers = share_and_peak(layout[place])
            overlays.append(Overlay(f"{height} × {width}", Image.fromarray(pixels), numbers))
        return overlays

    def edit(self, name: str, prompt: Prompt, sample: int, number: int, by: str) -> Edit:
        """A sample before and after word `number` is replaced by others, from the same noise.

        Both are drawn in batches of one size, so that what does not change is equal to the bit.

        Raises:
            CaptionError: as for `draw`, of either caption.
        """
        words = [word.text for word in self.words(prompt.text)]
        changed = prompt._replace(text=replaced(words, number, by))
        before, after = (self.pictures(name, asked)[sample] for asked in (prompt, changed))
        overlays = []
        if self.pipelines[name].has_layouts:
            sought = [(prompt, words[number : number + 1]), (changed, self._split(by)[:1])]
            for asked, shown in sought:
                for word in shown:
                    try:
                        overlay = self.overlays(name, asked, sample, number)[-1]
                    except UserError:
                        continue  # left out by this run, which the notes on the caption say
                    overlays.append((word, overlay))
        mean = float(np.abs(_pixels(after) - _pixels(before)).mean())
        return Edit(before, after, difference(before, after), mean, tuple(overlays))


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """The heat of a change on black, see `change_heat`; pictures of one size."""
    first, second = (
        torch.from_numpy(_pixels(picture) / 127.5 - 1).permute(2, 0, 1)
        for picture in (before, after)
    )
    heat = change_heat(first, second)
    return Image.fromarray(np.round(255 * heat[..., :3] * (heat[..., 3:] > 0)).astype(np.uint8))


def place_of(caption: EncodedCaption, words: list[str], number: int) -> int | None:
    """Where word `number` of `words` stands in a caption as a run reads it; None if left out.

    A run without `<unk>` leaves unknown words out, and every run cuts after `max_words`: the n-th
    time that a word stands in `words` is the n-th time in the caption.
    """
    occurrence = words[:number].count(words[number])
    places = [place for place, word in enumerate(caption.words) if word == words[number]]
    return places[occurrence] if occurrence < len(places) else None


def replaced(words: list[str], number: int, by: str) -> str:
    """The caption with word `number` replaced by any number of others, none included."""
    return " ".join([*words[:number], *by.split(), *words[number + 1 :]])


def _decided(layout: Tensor, place: int | None) -> float:
    return 0.0 if place is None else float(layout[place].max() / layout[place].mean())


def _side(image: Tensor) -> int:
    return max(SIDE, image.shape[-1])


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), np.float32)


def _shown(image: Tensor) -> Image.Image:
    return to_picture(image, _side(image))
