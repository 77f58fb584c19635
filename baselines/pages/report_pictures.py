"""What a report shows: every run on the same captions and noise, word by word, and edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.metrics.layouts import damsm_layout, real_layouts
from baselines.pages.embedded import embedded
from baselines.pages.subjects import Subject
from baselines.pictures.grids import change_heat, dimmed, layout_heat, to_picture
from baselines.pictures.sheet import Word, words_of
from baselines.sampling.held_out import HeldOut
from baselines.sampling.pipeline import EncodedCaption, Pipeline
from baselines.sampling.variations import mark_changes, mark_unknown

OVERLAY_SIDE = 96


@dataclass(frozen=True)
class Picture:
    """An embedded image, and what stands below it; none where the address is ""."""

    address: str
    note: str = ""


@dataclass(frozen=True)
class Line:
    """Pictures in a row behind a label.

    colour: that of the run, "" for real images; under: the embedded image that all of them are laid
    over as heat, "" for none. A page holds it once for a line, not once for every word.
    """

    label: str
    pictures: Sequence[Picture]
    colour: str = ""
    under: str = ""


@dataclass(frozen=True)
class Block:
    """Lines of pictures under one caption, or under column heads of marked words."""

    caption: Sequence[Word]
    lines: Sequence[Line]
    heads: Sequence[Sequence[Word]] = ()


def read_for(subject: Subject, text: str) -> EncodedCaption:
    """A caption in the words of a run.

    Raises:
        CaptionError: the run knows none of its words.
    """
    return subject.pipeline.read(text)[0]


def samples(
    subjects: Sequence[Subject], pairs: Sequence[HeldOut], *, seed: int, count: int
) -> list[Block]:
    """Every caption as every run draws it, `count` times, beside its real image.

    The k-th caption is drawn from seed + k, so that they do not all share one composition; the
    noise of a caption is the same for all runs.
    """
    blocks = []
    for place, pair in enumerate(pairs):
        lines = [Line("real", [Picture(embedded(to_picture(pair.image)))])]
        for subject in subjects:
            caption = read_for(subject, pair.caption.text)
            drawn = _drawn(subject.pipeline, caption, seed + place, count)
            pictures = [Picture(embedded(to_picture(image))) for image in drawn]
            lines.append(Line(subject.name, pictures, subject.colour))
        blocks.append(Block(mark_unknown(pair.caption), lines))
    return blocks


def _drawn(pipeline: Pipeline, caption: EncodedCaption, seed: int, count: int = 1) -> Tensor:
    drawings = list(pipeline.stream([caption], seed=seed, samples=count))
    return torch.cat([part.images[-1] for part in drawings])


@torch.no_grad()
def words(subjects: Sequence[Subject], pair: HeldOut, *, seed: int) -> Block:
    """Where every word of a caption is: in the real image (Θ*), and where each run puts it (Θ).

    By the run's own stages where it has layouts, and by the regions that the frozen DAMSM sees.
    """
    lines, heads = [], [[Word(word)] for word in read_for(subjects[0], pair.caption.text).words]
    for subject in subjects:
        pipeline = subject.pipeline
        caption = read_for(subject, pair.caption.text)
        inputs = pipeline.encode([caption], *pipeline.noise([0], seed))
        output = pipeline.draw(inputs)
        drawn = output.images[-1]
        device = pipeline.device
        given = inputs.words.to(device), inputs.lengths.to(device)
        real = real_layouts(pipeline.run)(pair.image[None].to(device), *given)
        theirs = {f"stage{n}": layout for n, layout in enumerate(output.layouts, start=1)}
        theirs["damsm"] = damsm_layout(pipeline.run.encoders.image, drawn.to(device), *given)
        for stage in dict.fromkeys([*real, *theirs]):
            for mark, image, found in (("Θ*", pair.image, real), ("Θ", drawn[0], theirs)):
                if stage in found:
                    layout = found[stage][0, : len(caption.words)].cpu()
                    colour = subject.colour if mark == "Θ" else ""
                    label = f"{subject.name}: {mark} {stage}"
                    lines.append(_layout_line(label, image, layout, colour))
    return Block(mark_unknown(pair.caption), lines, heads)


def _layout_line(label: str, image: Tensor, layout: Tensor, colour: str) -> Line:
    shares = layout.float().mean(dim=(1, 2)).tolist()
    heats = [
        Picture(embedded(heat), f"{100 * share:.0f} %")
        for heat, share in zip(layout_heat(layout), shares, strict=True)
    ]
    return Line(label, heats, colour, under=embedded(dimmed(image, OVERLAY_SIDE)))


def edits(subjects: Sequence[Subject], captions: Sequence[str], *, seed: int) -> Block:
    """A caption and changed versions of it from the same noise, and below what changed.

    The heat is the change of a pixel's colour, bright where it is half of all it could be.
    """
    base, *changed = captions
    heads = [words_of(base), *(mark_changes(base, text) for text in changed)]
    lines = []
    for subject in subjects:
        images = [_drawn(subject.pipeline, read_for(subject, text), seed)[0] for text in captions]
        shown = [Picture(embedded(to_picture(image))) for image in images]
        lines.append(Line(subject.name, shown, subject.colour))
        moved = [Picture(embedded(change_heat(images[0], x)), "changed") for x in images[1:]]
        under = embedded(dimmed(images[0], OVERLAY_SIDE))
        lines.append(Line("", [Picture(""), *moved], subject.colour, under))
    return Block((), lines, heads)
