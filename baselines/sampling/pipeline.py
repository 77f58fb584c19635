"""From captions to images with a trained run: what the sampling command and Python users call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from baselines import hub
from baselines.data.reading import is_text
from baselines.data.vocabulary import Vocabulary
from baselines.errors import UserError
from baselines.hosts import find_host
from baselines.networks.contracts import GeneratorOutput
from baselines.pictures.grids import to_picture
from baselines.runs import GENERATOR, Run, load_run
from baselines.sampling.drawing import Inputs, check_truncation, draw, seeded_noise
from baselines.training.distributed import pick_device

logger = logging.getLogger(__name__)


class CaptionError(UserError):
    """Captions that nothing can be drawn from; the message quotes each."""


@dataclass(frozen=True)
class EncodedCaption:
    """A caption as the model reads it.

    text: as given; ids: of its words, at most `max_words`; words: what stands behind the ids, an
    unknown word as it was written; unknown: words outside the vocabulary, which are read as
    `<unk>` or, where the vocabulary has no such word, left out; cut: words beyond `max_words`.
    """

    text: str
    ids: tuple[int, ...]
    words: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawings:
    """Drawn images, one per row, with what they were drawn from; tensors are on the CPU.

    captions: of every row; samples: the number of the row's noise; images: per stage
    (N, 3, S, S) in [-1, 1], smallest first; layouts: per refinement stage (N, T, h, w), each
    region's distribution over the words of the row's caption, 0 at the rest.
    """

    captions: tuple[EncodedCaption, ...]
    samples: tuple[int, ...]
    images: tuple[Tensor, ...]
    layouts: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.samples)

    @staticmethod
    def joined(parts: Sequence[Drawings]) -> Drawings:
        """The rows of all `parts`, one after the other."""
        return Drawings(
            captions=tuple(caption for part in parts for caption in part.captions),
            samples=tuple(sample for part in parts for sample in part.samples),
            images=_joined([part.images for part in parts]),
            layouts=_joined([part.layouts for part in parts]),
        )

    def pictures(self, stage: int = -1) -> list[Image.Image]:
        """The images of one stage, the last by default."""
        return [to_picture(image) for image in self.images[stage]]


class Pipeline:
    """Draws captions with the averaged weights of a run, in eval mode.

    Noise depends on the seed and the number of the sample alone: every caption gets the same, so
    that captions can be compared, and a caption gives the same image alone, in any company and in
    any batch size (up to the rounding of the arithmetic). It is drawn on the CPU, so the seed
    means the same on every device. A converted original with `legacy_mask` is drawn one image at
    a time, because its mis-tiled mask lets the images of a batch disturb each other.

    truncation: of the noise, see `drawing.seeded_noise`; 0 as in training.
    """

    def __init__(
        self, run: Run, device: torch.device | str = "cpu", *, truncation: float = 0.0
    ) -> None:
        check_truncation(truncation)
        self.run, self.truncation = run, truncation
        self.device = torch.device(device)

    @property
    def vocabulary(self) -> Vocabulary:
        """The words the run knows."""
        return self.run.encoders.vocabulary

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Side in pixels of the images of every stage."""
        return self.run.config.model.image_sizes

    @property
    def has_layouts(self) -> bool:
        """Whether the model tells where it puts every word."""
        model = self.run.config.model
        return find_host(model.name).layouts and model.stages > 1

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        seed: int = 0,
        samples: int = 1,
        mean_conditioning: bool = False,
        batch_size: int = 16,
    ) -> list[Image.Image]:
        """Images of the last stage: all samples of the first caption, then of the next.

        Args:
            texts: one caption or several.
            seed: of the noise.
            samples: images per caption.
            mean_conditioning: use the mean of the conditioning augmentation instead of a draw.
            batch_size: images drawn at once; lower it when memory is short.

        Raises:
            CaptionError: a caption is empty or has no word of the vocabulary.
            ValueError: `samples` or `batch_size` below 1, or no caption.
        """
        stream = self.stream(
            self.read(texts),
            seed=seed,
            samples=samples,
            mean_conditioning=mean_conditioning,
            batch_size=batch_size,
        )
        return [picture for drawings in stream for picture in drawings.pictures()]

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        seed: int = 0,
        samples: int = 1,
        mean_conditioning: bool = False,
        batch_size: int = 16,
    ) -> Drawings:
        """The images of every stage and the layouts, as tensors; arguments as for calling."""
        stream = self.stream(
            self.read(texts),
            seed=seed,
            samples=samples,
            mean_conditioning=mean_conditioning,
            batch_size=batch_size,
        )
        return Drawings.joined(list(stream))

    def stream(
        self,
        captions: Sequence[EncodedCaption],
        *,
        seed: int = 0,
        samples: int = 1,
        mean_conditioning: bool = False,
        batch_size: int = 16,
    ) -> Iterator[Drawings]:
        """Draw captions that were `read`, at most `batch_size` rows at a time.

        Memory stays bounded for any number of captions.

        Raises:
            ValueError: `samples` or `batch_size` below 1.
        """
        if samples < 1 or batch_size < 1:
            raise UserError(
                f"samples={samples}, batch_size={batch_size}: expected 1 or more of both"
            )
        # A generator function would check its arguments only when the first image is asked for.
        return self._stream(captions, seed, samples, mean_conditioning, batch_size)

    def _stream(
        self,
        captions: Sequence[EncodedCaption],
        seed: int,
        samples: int,
        mean_conditioning: bool,
        batch_size: int,
    ) -> Iterator[Drawings]:
        rows = ((caption, sample) for caption in captions for sample in range(samples))
        for batch in _chunks(rows, batch_size):
            chosen = tuple(caption for caption, _ in batch)
            numbers = tuple(sample for _, sample in batch)
            inputs = self.encode(chosen, *self.noise(numbers, seed, mean_conditioning))
            output = self.draw(inputs, batch_size)
            yield Drawings(chosen, numbers, output.images, output.layouts)

    def read(self, texts: str | Sequence[str]) -> list[EncodedCaption]:
        """Look every word up; unknown and cut words are logged as warnings, by name.

        Raises:
            CaptionError: no caption at all, or some without any word that the run knows.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"captions must be strings, got {text!r}")
        captions = [read_caption(text, self.vocabulary, self._max_words) for text in texts]
        if not captions:
            raise CaptionError("no caption given")
        problems = []
        for caption in captions:
            if not caption.text.strip():
                problems.append("a caption is empty")
            elif not is_text(caption.text):
                problems.append(f"{caption.text!r} is not UTF-8")
            elif not any(word in self.vocabulary for word in caption.words):
                problems.append(f"no word of {caption.text!r} is in the vocabulary of this run")
        if problems:
            shown = "; ".join(problems[:5])
            raise CaptionError(shown + f"; and {len(problems) - 5} more" * (len(problems) > 5))
        for caption in dict.fromkeys(captions):
            if caption.unknown:
                names = ", ".join(map(repr, caption.unknown))
                logger.warning("unknown to this run: %s, in %r", names, caption.text)
            if caption.cut:
                kept, dropped = len(caption.ids), " ".join(caption.cut)
                logger.warning("%r: cut after %d words, without %r", caption.text, kept, dropped)
        return captions

    @property
    def _max_words(self) -> int:
        return self.run.config.data.max_words

    def noise(
        self, samples: Sequence[int], seed: int, mean_conditioning: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Noise (N, Z) and conditioning noise (N, C) of the numbered samples of a seed."""
        widths = (self.run.config.model.noise_dim, self.run.config.model.condition_dim)
        drawn = [
            seeded_noise(*widths, seed, sample, truncation=self.truncation) for sample in samples
        ]
        noise, eps = (torch.stack(values) for values in zip(*drawn, strict=True))
        return noise, torch.zeros_like(eps) if mean_conditioning else eps

    @torch.inference_mode()
    def encode(self, captions: Sequence[EncodedCaption], noise: Tensor, eps: Tensor) -> Inputs:
        """Inputs of the generator for one caption per row of `noise`."""
        ids = torch.zeros(len(captions), self._max_words, dtype=torch.int64)
        lengths = torch.tensor([len(caption.ids) for caption in captions])
        for row, caption in zip(ids, captions, strict=True):
            row[: len(caption.ids)] = torch.tensor(caption.ids)
        text = self.run.encoders.text(ids.to(self.device), lengths)
        return Inputs(noise, eps, text.sentence.cpu(), text.words.cpu(), lengths)

    @torch.inference_mode()
    def draw(self, inputs: Inputs, batch_size: int = 16) -> GeneratorOutput:
        """Run the generator over `inputs`; the result is on the CPU."""
        outputs = [
            draw(self.run.generator, inputs.rows(start, start + batch_size), self.device)
            for start in range(0, len(inputs), batch_size)
        ]
        return GeneratorOutput(
            images=_joined([output.images for output in outputs]),
            features=(),
            layouts=_joined([output.layouts for output in outputs]),
            mu=torch.cat([output.mu.cpu() for output in outputs]),
            logvar=torch.cat([output.logvar.cpu() for output in outputs]),
        )


def load(
    run_dir: Path | str, *, device: str = "auto", weights: str = GENERATOR, truncation: float = 0.0
) -> Pipeline:
    """Open a run directory, or a model published on the Hugging Face Hub, for drawing.

    Args:
        run_dir: what `--run-dir` named in training, a folder of converted originals, or
            "owner/name" (or "owner/name@revision") of a model on the Hub, where no folder of that
            name is here.
        device: "cpu", "cuda", "cuda:1", ...; "auto" takes the GPU where there is one.
        weights: the file of the run to use; `baselines.runs.INITIAL` is the untrained network.
        truncation: of the noise, see `drawing.seeded_noise`.

    Raises:
        CheckpointError: the directory is no run, or a file of it is missing or damaged.
        UserError: no such device, or no such model on the Hub.
    """
    if hub.is_name(run_dir):
        run_dir = hub.fetch(str(run_dir))
    place = pick_device(device)
    run = load_run(run_dir, device=place, weights=weights)
    return Pipeline(run, place, truncation=truncation)


def read_caption(text: str, vocabulary: Vocabulary, max_words: int) -> EncodedCaption:
    """Tokenise `text` as training did and keep its first `max_words` words."""
    ids, tokens = vocabulary.encode(text), vocabulary.split(text)
    words = tokens if vocabulary.unknown else [token for token in tokens if token in vocabulary]
    return EncodedCaption(
        text=text,
        ids=tuple(ids[:max_words]),
        words=tuple(words[:max_words]),
        unknown=tuple(vocabulary.unknown_words(text)),
        cut=tuple(words[max_words:]),
    )


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Concatenate tuples of tensors entry by entry, on the CPU in float32."""
    return tuple(
        torch.cat([value.float().cpu() for value in values]) for values in zip(*parts, strict=True)
    )


def _chunks(
    rows: Iterator[tuple[EncodedCaption, int]], size: int
) -> Iterator[list[tuple[EncodedCaption, int]]]:
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
