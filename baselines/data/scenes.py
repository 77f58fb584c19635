"""`scenes`, the embedded data set: captioned scenes drawn on the fly, nothing to download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from baselines.config import DataConfig
from baselines.data import scene_captions
from baselines.data.scene_captions import SceneCaption
from baselines.data.scene_content import BACKGROUNDS, Scene, sample_scene
from baselines.data.scene_drawing import draw_scene
from baselines.data.source import SPLITS, BaseSource, SceneFacts, digest
from baselines.errors import UserError

CAPTIONS = 10
SMALLEST = 16
SCANNED = 256
# What is kept of scenes once drawn, in bytes of pixels: some 20,000 at 32 px, captions included
# 80 MB. At larger sizes few are kept; drawing is cheap beside training there.
KEPT = 2**26
# To be raised whenever the same settings draw other scenes or captions than before.
VERSION = 1


class Scenes(BaseSource):
    """Scenes of 1 to `max_objects` coloured shapes, ten captions each.

    Everything about item `index` follows from (seed, split, index) alone, on every platform and for
    any number of workers; the geometry is the same at every size. A test scene always shows
    a combination of colour, shape and position that no training scene shows.

    Args:
        split: "train" or "test".
        seed: chooses the scenes, not the held-out combinations. At least 0.
        images: how many scenes there are; the first ones are the same whatever the number.
        max_objects: 1, 2 or 3. 1 is the easy variant: single objects whose place is what matters.
        backgrounds: kinds of background to draw from, see `scene_content.BACKGROUNDS`.
        tokens: how captions are split into words; theirs are ASCII.

    >>> Scenes("train", seed=7, max_objects=1).captions(0)[0]
    'a small cyan cross on the right side'
    """

    @classmethod
    def open(cls, data: DataConfig, split: str) -> Scenes:
        """The scenes that `data` describes."""
        images = data.train_images if split == "train" else data.test_images
        return cls(
            split,
            seed=data.seed,
            images=images,
            max_objects=data.max_objects,
            tokens=data.tokens,
        )

    def __init__(
        self,
        split: str,
        *,
        seed: int = 0,
        images: int = 20000,
        max_objects: int = 3,
        backgrounds: Sequence[str] = BACKGROUNDS,
        tokens: str = "ascii",
    ) -> None:
        super().__init__("scenes", split, tokens=tokens)
        if seed < 0:
            raise UserError(f"seed is {seed}; expected 0 or more")
        if images < 1:
            raise UserError(f"images is {images}; expected at least 1")
        if max_objects not in (1, 2, 3):
            raise UserError(f"max_objects is {max_objects}; expected 1, 2 or 3")
        unknown = [kind for kind in backgrounds if kind not in BACKGROUNDS]
        if unknown or not backgrounds:
            raise UserError(
                f"backgrounds is {tuple(backgrounds)!r}; expected some of {', '.join(BACKGROUNDS)}"
            )
        self.seed = seed
        self.max_objects = max_objects
        self.backgrounds = tuple(backgrounds)
        self._images = images
        if images > SCANNED:
            self.notes = (f"drawn on the fly, so only the first {SCANNED} checked",)
        self._latest: tuple[int, Scene] | None = None
        self._texts: dict[int, tuple[str, ...]] = {}
        self._pictures: dict[tuple[int, int], Tensor] = {}
        self._classes: dict[int, int] = {}

    def __len__(self) -> int:
        return self._images

    def scene(self, index: int) -> Scene:
        """Objects, boxes, relations and background of item `index`."""
        if not 0 <= index < self._images:
            raise IndexError(f"scene {index} of {self._images}")
        latest = self._latest
        if latest is not None and latest[0] == index:
            return latest[1]
        scene = sample_scene(
            self._rng(index, stream=0),
            max_objects=self.max_objects,
            backgrounds=self.backgrounds,
            test=self.split == "test",
        )
        self._latest = (index, scene)
        return scene

    def pixels(self, index: int, size: int, *, rng: torch.Generator | None = None) -> Tensor:
        """The picture, (3, size, size) uint8; size is at least 16.

        There is no augmentation, with or without `rng`: a flip would turn "left of" into a lie,
        and every scene is drawn anew anyway.
        """
        if size < SMALLEST:
            raise UserError(f"size is {size}; scenes are drawn at {SMALLEST} pixels and more")
        kept = self._pictures.get((index, size))
        if kept is None:
            kept = torch.from_numpy(draw_scene(self.scene(index), size)).permute(2, 0, 1)
            kept = kept.contiguous()
            if len(self._pictures) < KEPT // kept.numel():
                self._pictures[index, size] = kept
        return kept.clone()

    def described(self, index: int) -> tuple[SceneCaption, ...]:
        """The ten captions with what each states."""
        rng = self._rng(index, stream=1)
        return scene_captions.describe(self.scene(index), rng, CAPTIONS)

    def captions(self, index: int) -> tuple[str, ...]:
        """The ten captions' text."""
        texts = self._texts.get(index)
        if texts is None:
            texts = tuple(caption.text for caption in self.described(index))
            if len(self._texts) < KEPT // (3 * 32**2):
                self._texts[index] = texts
        return texts

    def class_id(self, index: int) -> int:
        """What the scene holds, see `Scene.class_id`."""
        # Asked for in every epoch, where the picture is kept and the scene is not.
        kept = self._classes.get(index)
        if kept is None:
            kept = self._classes[index] = self.scene(index).class_id
        return kept

    def key(self, index: int) -> str:
        """A name for files, unique over splits and seeds."""
        return f"scenes-{self.split}-{self.seed}-{index:06d}"

    @property
    def fingerprint(self) -> str:
        """Of the settings and the version of the drawing."""
        settings = [self.split, self.seed, len(self), self.max_objects, list(self.backgrounds)]
        return digest([self.name, VERSION, settings])

    @property
    def scanned(self) -> Sequence[int]:
        """The first scenes: there is no file that could be broken."""
        return range(min(SCANNED, len(self)))

    @staticmethod
    def vocabulary_captions() -> Iterator[str]:
        """Sentences with every word of every caption: its templates know them all."""
        return scene_captions.vocabulary_captions()

    def scene_facts(self, index: int) -> SceneFacts:
        """What the ten captions state, and the box of every object."""
        return SceneFacts(self.described(index), self.scene(index).boxes)

    def _rng(self, index: int, *, stream: int) -> np.random.Generator:
        entropy = [self.seed, SPLITS.index(self.split), index]
        seeds = np.random.SeedSequence(entropy, spawn_key=(stream,))
        return np.random.Generator(np.random.PCG64(seeds))
