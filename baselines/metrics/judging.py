"""Who judges whether an image fits its caption: encoders, a detector, and files of captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from baselines.data.source import Source
from baselines.errors import UserError
from baselines.metrics.alignment import read_false_captions
from baselines.metrics.counting import read_counts
from baselines.metrics.detectors import Detector
from baselines.metrics.extractors import weights_hash
from baselines.metrics.image_text import ImageTextEncoder, ImageTextJudge
from baselines.metrics.pairs import Pairs, encode_sentences, read_again
from baselines.metrics.r_precision import NAME as R_PRECISION
from baselines.metrics.soa import read_class_captions
from baselines.metrics.spec import CaptionEncoder, EvaluationContext
from baselines.runs import Encoders, load_encoders

if TYPE_CHECKING:
    from baselines.metrics.evaluation import Options

INDEPENDENT = "independent"


def judge(name: str, encoders: Encoders, pairs: Pairs, device: torch.device) -> CaptionEncoder:
    """Encode all captions with one pair of encoders."""
    return CaptionEncoder(
        name,
        encoders.image,
        encode_sentences(pairs, encoders.text, device),
        weights_hash(encoders.text, encoders.image),
    )


def independent_judge(
    path: Path, source: Source, pairs: Pairs, max_words: int, device: torch.device
) -> CaptionEncoder:
    """Open encoders that the generator was not trained with, and encode all captions with them."""
    encoders = load_encoders(path)
    encoders.text.to(device)
    encoders.image.to(device)
    again = read_again(source, pairs, encoders.vocabulary, max_words)
    return judge(INDEPENDENT, encoders, again, device)


def bring(
    context: EvaluationContext,
    options: Options,
    detector: Detector | None,
    encoder: ImageTextEncoder | None,
) -> None:
    """Give an evaluation its detector, its encoder of images and texts, and the files of captions.

    R-precision by the encoder stands beside that of the encoders there are; as it takes every
    caption of the split, it is prepared only where R-precision is asked for.

    Raises:
        UserError: a file of captions that cannot be read, or that nothing here would read.
    """
    context.detector = detector
    if options.class_captions is not None:
        if detector is None:
            raise UserError(f"{options.class_captions} is for SOA, which needs --detector")
        context.class_captions = read_class_captions(options.class_captions, detector.labels)
    if options.counts is not None:
        if detector is None:
            raise UserError(f"{options.counts} is for counting, which needs --detector")
        context.counts = read_counts(options.counts)
    if options.false_captions is not None:
        if encoder is None:
            raise UserError(f"{options.false_captions} is for pa, which needs --clip")
        context.false_captions = read_false_captions(options.false_captions)
    if encoder is None:
        return
    context.judge = ImageTextJudge(encoder)
    asked = options.metrics is None or R_PRECISION in options.metrics
    captions = [context.caption(row) for row in range(len(context.pairs))]
    if asked and any(captions):
        sentences = context.judge.texts(captions)
        weights = str(encoder.settings.get("weights", encoder.name))
        own = CaptionEncoder(encoder.name, context.judge, sentences, weights)
        context.encoders = [*context.encoders, own]
