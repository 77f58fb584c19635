"""A run directory: what training leaves there and what sampling and evaluation read back.

- `config.json`: the resolved configuration
- `vocabulary.json`: the words of the captions
- `encoders.pt`: DAMSM's text and image encoders; `encoders.safetensors` where a run is published
- `generator.safetensors`: averaged (EMA) weights of the newest checkpoint
- `initial.safetensors`: the same before the first step, to compare with
- `checkpoint-*.pt`: complete training states
- `stats.jsonl`, `grids/`: the log and the pictures
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from baselines.config import (
    Config,
    EncoderConfig,
    from_dict,
    load_config,
    to_dict,
)
from baselines.data.vocabulary import Vocabulary
from baselines.hosts import build_generator
from baselines.networks.encoders import (
    ImageEncoder,
    TextEncoder,
    build_image_encoder,
    build_text_encoder,
)
from baselines.training.checkpoint import (
    CheckpointError,
    load_torch,
    load_weights,
    read_description,
    save_torch,
    save_weights,
)

CONFIG = "config.json"
VOCABULARY = "vocabulary.json"
ENCODERS = "encoders.pt"
PUBLISHED_ENCODERS = "encoders.safetensors"
GENERATOR = "generator.safetensors"
INITIAL = "initial.safetensors"
ENCODER_SECTIONS = ("text", "image", "vocabulary", "encoder")


@dataclass
class Encoders:
    """The two DAMSM encoders, the vocabulary they speak, and their settings."""

    text: TextEncoder
    image: ImageEncoder
    vocabulary: Vocabulary
    config: EncoderConfig

    @property
    def fingerprint(self) -> str:
        """The same for the same weights: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for network in (self.text, self.image):
            for name, tensor in network.state_dict().items():
                values = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(values.view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


@dataclass
class Run:
    """A trained model, ready to draw: everything in eval mode on one device."""

    directory: Path
    config: Config
    encoders: Encoders
    generator: nn.Module


def save_encoders(encoders: Encoders, path: Path, **facts: Any) -> None:
    """Write both encoders, their vocabulary and settings as one file, with `facts` beside them."""
    state = {
        "text": encoders.text.state_dict(),
        "image": encoders.image.state_dict(),
        "vocabulary": encoders.vocabulary.to_dict(),
        "encoder": to_dict(encoders.config),
        "facts": facts,
    }
    save_torch(state, path)


def publish_encoders(encoders: Encoders, path: Path) -> None:
    """Write what `save_encoders` does as safetensors, which strangers open without a pickle."""
    facts = {"vocabulary": encoders.vocabulary.to_dict(), "encoder": to_dict(encoders.config)}
    save_weights(_pair(encoders.text, encoders.image), path, **facts)


def _pair(text: nn.Module, image: nn.Module) -> nn.Module:
    return nn.ModuleDict({"text": text, "image": image})


def load_encoders(path: Path) -> Encoders:
    """Read a file of `save_encoders` or `publish_encoders`, or the one in a run directory.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    path = _encoder_file(path)
    state = _encoder_state(path)
    config = from_dict(EncoderConfig, state["encoder"], "encoder.")
    vocabulary = Vocabulary.from_dict(state["vocabulary"])
    with torch.device("meta"):
        text = build_text_encoder(config, len(vocabulary))
        image = build_image_encoder(config)
    if path.suffix == ".safetensors":
        load_weights(_pair(text, image), path)
        return Encoders(text.eval(), image.eval(), vocabulary, config)
    try:
        text.load_state_dict(state["text"], assign=True)
        image.load_state_dict(state["image"], assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its weights do not fit its own settings ({one_line(error)})"
        ) from error
    return Encoders(text.eval(), image.eval(), vocabulary, config)


def encoder_settings(path: Path) -> EncoderConfig:
    """The settings in a file that `load_encoders` reads, or of the one in a run directory.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    state = _encoder_state(_encoder_file(path))
    return from_dict(EncoderConfig, state["encoder"], "encoder.")


def _encoder_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    published = path / PUBLISHED_ENCODERS
    return published if published.exists() and not (path / ENCODERS).exists() else path / ENCODERS


def _encoder_state(path: Path) -> dict[str, Any]:
    """Everything in the file; of a published one all but the weights."""
    if path.suffix == ".safetensors":
        facts = read_description(path)
        require_sections(facts, ("vocabulary", "encoder"), path, "a file of encoders")
        return facts
    state = load_torch(path)
    require_sections(state, ENCODER_SECTIONS, path, "a file of encoders")
    return state


def require_sections(
    state: Mapping[str, Any], sections: Iterable[str], path: Path, what: str
) -> None:
    """Refuse a file without one of the `sections`, which all are dictionaries.

    Raises:
        CheckpointError: naming the file and what is missing.
    """
    missing = [name for name in sections if not isinstance(state.get(name), Mapping)]
    if missing:
        raise CheckpointError(f"{path}: not {what}: {', '.join(missing)} missing")


def one_line(error: Exception) -> str:
    """The start of a message, without line breaks."""
    return textwrap.shorten(str(error), 300, placeholder=" ...")


def load_run(
    directory: Path | str, *, device: torch.device | str = "cpu", weights: str = GENERATOR
) -> Run:
    """Open a run directory for drawing.

    Args:
        directory: what `--run-dir` named in training, or a folder of converted originals.
        device: where the networks go.
        weights: `GENERATOR`, or `INITIAL` for the untrained network.

    Raises:
        CheckpointError: the directory is no run, or a file of it is missing or damaged.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"{directory}: not a run directory, it has no {CONFIG}")
    config = load_config(directory / CONFIG)
    encoders = load_encoders(directory)
    encoders.vocabulary.require_same(
        Vocabulary.load(directory / VOCABULARY), f"{directory / VOCABULARY}"
    )
    # On the meta device: what is about to be loaded need not be initialised first.
    with torch.device("meta"):
        generator = build_generator(config)
    load_weights(generator, directory / weights)
    encoders.text.to(device)
    encoders.image.to(device)
    return Run(directory, config, encoders, generator.to(device).eval())


if __name__ == "__main__":
    from baselines.cli import run_command
    from baselines.inventory import main

    run_command(main)
