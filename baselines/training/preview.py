"""Pictures of a run in progress, always of the same captions and noise."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from baselines.config import Config
from baselines.data.loader import Batch, Collate, Item
from baselines.data.source import Source
from baselines.data.vocabulary import Vocabulary
from baselines.networks.contracts import Text
from baselines.pictures import grids as pictures
from baselines.training.objective import GANObjective
from baselines.training.stats import read_panels, read_stats

COUNT = 8
OVERLAYS = 2


class Preview:
    """Draws `grids/<step>.png`, word-layout overlays beside it, and the loss curves.

    Held-out captions and fixed noise with the averaged generator; for a refined host the overlays
    show the layout of the real image, Θ*, above that of the synthesized one, Θ. A picture that
    cannot be drawn is reported and never stops the training.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        vocabulary: Vocabulary,
        source: Source,
        objective: GANObjective,
    ) -> None:
        self.config, self.run_dir, self.objective = config, run_dir, objective
        self.vocabulary = vocabulary
        self.batch = fixed_batch(source, vocabulary, config).to(objective.world.device)
        device = objective.world.device
        generator = torch.Generator().manual_seed(config.run.seed)
        count, model = len(self.batch), config.model
        self.noise = torch.randn(count, model.noise_dim, generator=generator).to(device)
        self.eps = torch.randn(count, model.condition_dim, generator=generator).to(device)

    @torch.no_grad()
    def __call__(self, step: int, images: int) -> dict[str, float]:
        """Draw after `step`; nothing for the log."""
        text = self.objective.text_encoder(self.batch.captions, self.batch.lengths_cpu)
        lengths = self.batch.lengths
        drawn = self.objective.average.network(
            self.noise, text.sentence, text.words, lengths, eps=self.eps
        )
        captions = [self._words(row) for row in range(len(self.batch))]
        folder = self.run_dir / "grids"
        stem = f"{step:07d}"
        pictures.attempt(
            lambda: pictures.training_grid(
                self.batch.images.cpu(),
                [stage.cpu() for stage in drawn.images],
                [" ".join(words) for words in captions],
                folder / f"{stem}.png",
            ),
            "sample grid",
        )
        real_layouts = self.objective.real_layouts(
            self.batch.images, Text(text.words, lengths, text.sentence)
        )
        for row in range(min(OVERLAYS, len(self.batch) if drawn.layouts else 0)):
            rows = [
                pictures.OverlayRow(label, image[row].cpu(), layout[row].cpu())
                for label, image, layout in (
                    *[(f"real Θ* {x.shape[-1]}", self.batch.images, x) for x in real_layouts],
                    *[(f"drawn Θ {x.shape[-1]}", drawn.images[-1], x) for x in drawn.layouts],
                )
            ]
            path = folder / f"{stem}_words{row}.png"
            pictures.attempt(
                partial(pictures.overlay_sheet, rows, captions[row], path), "word overlay"
            )
        stats = read_stats(self.run_dir / "stats.jsonl")
        if stats:
            pictures.attempt(
                lambda: pictures.curves(
                    stats, self.run_dir / "curves.png", read_panels(self.run_dir)
                ),
                "loss curves",
            )
        return {}

    def _words(self, row: int) -> list[str]:
        ids = self.batch.captions[row, : int(self.batch.lengths_cpu[row])]
        return self.vocabulary.decode(ids.tolist())


def fixed_batch(source: Source, vocabulary: Vocabulary, config: Config) -> Batch:
    """The first images of a split, each with its first caption that has a known word."""
    size, max_words = config.model.image_sizes[-1], config.data.max_words
    items = []
    for index in range(len(source)):
        encoded = (vocabulary.encode(caption) for caption in source.captions(index))
        number, ids = next(((n, ids) for n, ids in enumerate(encoded) if ids), (0, []))
        if ids:
            image = source.image(index, size)
            class_id, key = source.class_id(index), source.key(index)
            items.append(Item(image, ids[:max_words], class_id, key, number))
        if len(items) == COUNT:
            break
    return Collate(max_words)(items)
