"""The file of a trained captioner: written by `baselines.stream`, copied into every run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from baselines.config import Config, StreamConfig, from_dict, to_dict
from baselines.data.vocabulary import Vocabulary
from baselines.hosts.mirrorgan.captioner import (
    CaptionDecoder,
    Captioner,
    CaptionImageEncoder,
    build_captioner,
    stream_config,
)
from baselines.networks.originals import ConversionError
from baselines.training.checkpoint import CheckpointError, load_torch, save_torch


def save_captioner(
    captioner: Captioner, vocabulary: Vocabulary, stream: StreamConfig, path: Path, **facts: Any
) -> None:
    """Write a captioner, its words and settings as one file, with `facts` beside them."""
    state = {
        "captioner": captioner.state_dict(),
        "vocabulary": vocabulary.to_dict(),
        "stream": to_dict(stream),
        "facts": facts,
    }
    save_torch(state, path)


def save_untrained(config: Config, vocabulary: Vocabulary, path: Path) -> None:
    """Write a fresh captioner of `config.stream`; nothing is fetched."""
    captioner = build_captioner(config.stream, len(vocabulary))
    save_captioner(captioner, vocabulary, config.stream, path)


def load_captioner(path: Path, vocabulary: Vocabulary) -> Captioner:
    """Read a file of `save_captioner`, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
        VocabularyMismatchError: the captioner tells other words than `vocabulary`.
    """
    state = _state(path)
    vocabulary.require_same(Vocabulary.from_dict(state["vocabulary"]), str(path))
    with torch.device("meta"):
        captioner = build_captioner(_stream(state), len(vocabulary))
    try:
        captioner.load_state_dict(state["captioner"], assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit its own settings: {error}") from error
    return captioner.eval()


def with_settings(config: Config, path: Path) -> Config:
    """`config` with the settings of the captioner in `path`.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    return dataclasses.replace(config, stream=_stream(_state(path)))


def convert(
    networks: Sequence[nn.Module], vocabulary: Vocabulary, path: Path
) -> Sequence[nn.Module]:
    """Write `path` if both halves of a captioner are among the converted networks; those written.

    Raises:
        ConversionError: they do not belong together, or tell other words.
    """
    images = [network for network in networks if isinstance(network, CaptionImageEncoder)]
    decoders = [network for network in networks if isinstance(network, CaptionDecoder)]
    if not (images and decoders):
        return []
    if decoders[0].vocabulary_size != len(vocabulary):
        raise ConversionError(
            f"captions.pickle has {len(vocabulary)} words, the captioner was trained with "
            f"{decoders[0].vocabulary_size}: they do not belong together"
        )
    try:
        captioner = Captioner(images[0], decoders[0])
    except ValueError as error:
        raise ConversionError(f"the halves of the captioner do not fit: {error}") from error
    save_captioner(captioner, vocabulary, stream_config(captioner), path)
    return [images[0], decoders[0]]


def _state(path: Path) -> dict[str, Any]:
    state = load_torch(path)
    missing = {"captioner", "vocabulary", "stream"} - state.keys()
    if missing:
        raise CheckpointError(f"{path}: not a file of a captioner, {sorted(missing)} missing")
    return state


def _stream(state: dict[str, Any]) -> StreamConfig:
    return from_dict(StreamConfig, state["stream"], "stream.")
