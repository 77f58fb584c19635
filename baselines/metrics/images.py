"""The images that metrics look at: drawn for every caption of a split, or real."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from baselines.data.images import open_rgb
from baselines.data.source import DataError, Source
from baselines.files import write_text
from baselines.metrics.extractors import DamsmExtractor, Extractor, Features
from baselines.metrics.layouts import damsm_layout
from baselines.metrics.pairs import Pairs
from baselines.metrics.scene_parsing import Component, find_components
from baselines.metrics.spec import LayoutMaker
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.pictures.grids import to_picture
from baselines.pictures.sheet import save_picture
from baselines.sampling.drawing import Inputs, draw, seeded_noise

if TYPE_CHECKING:
    from baselines.metrics.detectors import Detection, Detector
    from baselines.metrics.image_text import ImageTextJudge


@dataclass
class ImageBatch:
    """One batch of images with the pairs they belong to; what several metrics need is kept.

    rows: (B,) of the pairs; images: (B, 3, S, S) in [-1, 1], on the device; sample: the number of
    their noise; layouts: (B, T, h, w) by stage, empty where there are none.
    """

    rows: Tensor
    images: Tensor
    sample: int = 0
    layouts: Mapping[str, Tensor] = field(default_factory=dict)
    _components: list[list[Component]] | None = None
    _detections: list[list[Detection]] | None = None
    _codes: dict[int, Tensor] = field(default_factory=dict)
    _features: dict[str, Features] = field(default_factory=dict)

    def code(self, encoder: ImageEncoder | ImageTextJudge) -> Tensor:
        """(B, E) of the images by an image encoder, or by one of images and texts."""
        if id(encoder) not in self._codes:
            self._codes[id(encoder)] = encoder(self.images).code
        return self._codes[id(encoder)]

    def components(self) -> list[list[Component]]:
        """Find the coloured regions of every image; see `find_components`."""
        if self._components is None:
            images = self.images.float().nan_to_num(0.0).cpu()
            self._components = [find_components(image) for image in images]
        return self._components

    def detections(self, detector: Detector) -> list[list[Detection]]:
        """Find the objects of every image by the one detector of an evaluation."""
        if self._detections is None:
            self._detections = detector(self.images)
        return self._detections

    def features(self, extractor: Extractor) -> Features:
        """Give what `extractor` makes of the images."""
        if isinstance(extractor, DamsmExtractor):
            return Features(self.code(extractor.encoder), None)
        name = extractor.provenance.extractor
        if name not in self._features:
            self._features[name] = extractor(self.images)
        return self._features[name]


def drawn_batches(
    generator: nn.Module,
    pairs: Pairs,
    text_encoder: TextEncoder,
    *,
    count: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    samples: int = 1,
    truncation: float = 0.0,
    judge: ImageEncoder | None = None,
) -> Iterator[ImageBatch]:
    """Draw `samples` images for each of the first `count` pairs, all first samples first.

    The noise of a pair, that of the conditioning augmentation included, follows from the seed and
    the numbers of the pair and the sample alone, whatever the batch size and the device.

    Args:
        generator: in eval mode, on `device`.
        pairs: captions.
        text_encoder: on `device`.
        count: how many pairs.
        batch_size: images drawn at once; a generator with `legacy_mask` draws one by one.
        seed: of the noise.
        device: where to draw.
        samples: images of each pair.
        truncation: of the noise, see `seeded_noise`.
        judge: an image encoder; with it the batches have its layout ("damsm") too.
    """
    widths = cast(tuple[int, int], (generator.noise_dim, generator.condition_dim))
    for sample in range(samples):
        for rows in torch.arange(count).split(batch_size):
            text = text_encoder(pairs.ids[rows].to(device), pairs.lengths[rows])
            # The first sample's noise is that of the pair, so that more samples change nothing.
            numbers = [(row, sample) if sample else (row,) for row in rows.tolist()]
            drawn_noise = (seeded_noise(*widths, seed, *n, truncation=truncation) for n in numbers)
            noise, eps = (torch.stack(values) for values in zip(*drawn_noise, strict=True))
            inputs = Inputs(noise, eps, text.sentence, text.words, pairs.lengths[rows])
            drawn = draw(generator, inputs, device)
            images = drawn.images[-1]
            layouts = {f"stage{n}": layout for n, layout in enumerate(drawn.layouts, start=1)}
            if judge is not None:
                lengths = pairs.lengths[rows].to(device)
                layouts["damsm"] = damsm_layout(judge, images, text.words, lengths)
            yield ImageBatch(rows, images, sample, layouts)


def real_batches(
    source: Source,
    pairs: Pairs,
    *,
    count: int,
    size: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    layouts: LayoutMaker | None = None,
) -> Iterator[ImageBatch]:
    """Read the real images of the first `count` pairs; `layouts` gives their Θ*."""
    loader = DataLoader(
        _Images(source, pairs.images[:count].tolist(), size),
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # Without one of its own a DataLoader takes its base seed from the global generator.
        generator=torch.Generator(),
    )
    for rows, images in zip(torch.arange(count).split(batch_size), loader, strict=True):
        images = images.to(device, non_blocking=True)
        maps: Mapping[str, Tensor] = {}
        if layouts is not None:
            maps = layouts(images, rows)
        yield ImageBatch(rows, images, 0, maps)


def read_image(path: Path) -> Tensor:
    """Read an image file whole, (3, H, W) in [-1, 1].

    Raises:
        DataError: the file is missing or no image.
    """
    try:
        picture = open_rgb(path)
    except Exception as error:
        raise DataError(f"image {path} cannot be read ({error})") from error
    return pil_to_tensor(picture).float().div_(127.5).sub_(1.0)


def save_images(
    batches: Iterable[ImageBatch], source: Source, pairs: Pairs, folder: Path
) -> Iterator[ImageBatch]:
    """Write every image of passing batches as PNG, and their captions as `metadata.jsonl`.

    The folder is what `--images-from` reads, with `--captions folder/metadata.jsonl`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for batch in batches:
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            index, number = int(pairs.images[row]), int(pairs.captions[row])
            key = source.key(index).replace("/", "_").rsplit(".", 1)[0]
            name = f"{key}_{number}_{batch.sample}.png"
            save_picture(to_picture(image.float().cpu()), folder / name)
            line: Mapping[str, Any] = {
                "file_name": name,
                "text": source.captions(index)[number],
                "class": int(pairs.class_ids[row]),
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        yield batch
    write_text(folder / "metadata.jsonl", "".join(lines))


class _Images(Dataset[Tensor]):
    def __init__(self, source: Source, indices: Sequence[int], size: int) -> None:
        self.source, self.indices, self.size = source, indices, size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Tensor:
        return self.source.image(self.indices[place], self.size)
