"""What a run draws best and worst: by what captions state where that is known, else by layout."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from baselines.data.source import Source
from baselines.metrics.agreement import agreement
from baselines.metrics.graded import grade
from baselines.metrics.images import ImageBatch, drawn_batches
from baselines.metrics.layouts import Refined, real_layouts
from baselines.metrics.pairs import Pairs, read_pairs
from baselines.pages.embedded import embedded
from baselines.pages.report_pictures import Block, Line, Picture
from baselines.pages.subjects import Subject
from baselines.pictures.grids import to_picture
from baselines.pictures.sheet import words_of
from baselines.runs import Run
from baselines.sampling.pipeline import Pipeline

ROWS = ("colour", "place", "shape", "size", "relation")
BATCH = 25


def best_and_worst(
    subject: Subject, source: Source, *, seed: int, drawn: int, count: int
) -> Iterator[tuple[str, list[Block]]]:
    """The `count` captions that a run draws best by layout, and worst, of the first `drawn`."""
    pipeline = subject.pipeline
    pairs = read_pairs(source, pipeline.vocabulary, pipeline.run.config.data.max_words)
    ranked = sorted(
        _graded(pipeline, source, pairs, min(drawn, len(pairs)), seed), key=lambda one: one[0]
    )
    for title, chosen in (("best", ranked[::-1][:count]), ("worst", ranked[:count])):
        yield title, [_beside(source, pairs, row, image, note) for _, row, image, note in chosen]


def _beside(source: Source, pairs: Pairs, row: int, image: Tensor, note: str) -> Block:
    index = int(pairs.images[row])
    text = source.captions(index)[int(pairs.captions[row])]
    real = Picture(embedded(to_picture(source.image(index, image.shape[-1]))), "real")
    return Block(words_of(text), [Line("", [Picture(embedded(to_picture(image)), note), real])])


@torch.no_grad()
def _graded(
    pipeline: Pipeline, source: Source, pairs: Pairs, count: int, seed: int
) -> Iterator[tuple[float, int, Tensor, str]]:
    """Worth, row, image and note of drawn captions."""
    run = pipeline.run
    theirs = real_layouts(run)
    for batch in drawn_batches(
        run.generator,
        pairs,
        run.encoders.text,
        count=count,
        batch_size=25,
        seed=seed,
        device=pipeline.device,
        judge=run.encoders.image,
    ):
        stated = _by_statements(source, pairs, batch)
        if stated is None:
            stated = _by_overlap(run, source, pairs, batch, theirs)
        for row, image, (worth, note) in zip(
            batch.rows.tolist(), batch.images, stated, strict=True
        ):
            yield worth, row, image.cpu(), note


def _by_statements(
    source: Source, pairs: Pairs, batch: ImageBatch
) -> list[tuple[float, str]] | None:
    """By how many statements of its caption a picture holds; None where nobody knows them."""
    found = []
    for row, seen in zip(batch.rows.tolist(), batch.components(), strict=True):
        facts = source.scene_facts(int(pairs.images[row]))
        if facts is None:
            return None
        counts = grade(facts.captions[int(pairs.captions[row])], seen).counts
        held = {name: counts[name] for name in ROWS if counts[name][1]}
        worth = sum(right for right, _ in held.values()) / sum(n for _, n in held.values())
        wrong = [name for name, (right, stated) in held.items() if right < stated]
        # Of equals the one with the cleaner shape.
        worth += 0.01 * counts["overlap"][0] / max(1.0, counts["overlap"][1])
        found.append((worth, f"wrong: {', '.join(wrong)}" if wrong else "all true"))
    return found


def _by_overlap(
    run: Run, source: Source, pairs: Pairs, batch: ImageBatch, theirs: Refined
) -> list[tuple[float, str]]:
    """By how far the regions of its words overlap those of the real image, as DAMSM sees both."""
    lengths = pairs.lengths[batch.rows]
    words = run.encoders.text(pairs.ids[batch.rows].to(batch.images.device), lengths).words
    size = batch.images.shape[-1]
    images = [source.image(index, size) for index in pairs.images[batch.rows].tolist()]
    real = theirs(torch.stack(images).to(words.device), words, lengths.to(words.device))
    shared, counts = agreement(
        batch.layouts["damsm"], real["damsm"], lengths, gamma=run.config.refine.gamma
    )["overlap"]
    worths = (shared / counts).tolist()
    return [(worth, f"words overlap {100 * worth:.0f} %") for worth in worths]
