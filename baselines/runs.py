"""A run directory: what training leaves there and what sampling and evaluation read back.

- `config.json`: the resolved configuration
- `vocabulary.json`: the words of the captions
- `encoders.pt`: DAMSM's text and image encoders
- `generator.safetensors`: averaged (EMA) weights of the newest checkpoint
- `initial.safetensors`: the same before the first step, to compare with
- `checkpoint-*.pt`: complete training states
- `stats.jsonl`, `grids/`: the log and the pictures
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from baselines.config import (
    Config,
    ConfigError,
    EncoderConfig,
    flat,
    from_dict,
    load_config,
    settings,
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
    checkpoints,
    load_torch,
    load_weights,
    save_torch,
)

CONFIG = "config.json"
VOCABULARY = "vocabulary.json"
ENCODERS = "encoders.pt"
GENERATOR = "generator.safetensors"
INITIAL = "initial.safetensors"


@dataclass
class Encoders:
    """The two DAMSM encoders, the vocabulary they speak, and their settings."""

    text: TextEncoder
    image: ImageEncoder
    vocabulary: Vocabulary
    config: EncoderConfig


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


def load_encoders(path: Path) -> Encoders:
    """Read a file of `save_encoders`, or the one in a run directory.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    state = _encoder_state(path)
    config = from_dict(EncoderConfig, state["encoder"], "encoder.")
    vocabulary = Vocabulary.from_dict(state["vocabulary"])
    with torch.device("meta"):
        text = build_text_encoder(config, len(vocabulary))
        image = build_image_encoder(config)
    text.load_state_dict(state["text"], assign=True)
    image.load_state_dict(state["image"], assign=True)
    return Encoders(text.eval(), image.eval(), vocabulary, config)


def encoder_settings(path: Path) -> EncoderConfig:
    """The settings in a file of `save_encoders`, or of the one in a run directory.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    return from_dict(EncoderConfig, _encoder_state(path)["encoder"], "encoder.")


def _encoder_state(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / ENCODERS
    state = load_torch(path)
    missing = {"text", "image", "vocabulary", "encoder"} - state.keys()
    if missing:
        raise CheckpointError(f"{path}: not a file of encoders, {sorted(missing)} missing")
    return state


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


def newest_state(
    config: Config, run_dir: Path, vocabulary: Vocabulary, command: str = "train"
) -> dict[str, Any] | None:
    """The newest checkpoint of the run, refused if it belongs to other settings or words.

    `command` is the one that goes on; settings that it does not read are not compared.
    """
    found = checkpoints(run_dir)
    if not found:
        return None
    saved = load_torch(found[-1])
    require_same_config(from_dict(Config, saved["config"]), config, run_dir, command)
    vocabulary.require_same(Vocabulary.from_dict(saved["vocabulary"]), str(found[-1]))
    return saved


def require_same_config(
    saved: Config, asked: Config, directory: Path, command: str = "train"
) -> None:
    """Refuse to go on with a run under settings that would make it another one.

    What may differ is declared with each setting (`resume=True`). `damsm` compares what it reads;
    `train` everything, because it reads the encoders, whose settings are those of `damsm`.

    Raises:
        ConfigError: naming every setting that differs.
    """
    old, new = flat(saved), flat(asked)
    differing = [
        f"{key}: {old[key]!r} in the run, {new[key]!r} asked for"
        for key, one in settings(Config).items()
        if old[key] != new[key] and not one.resume and (command == "train" or one.only != "train")
    ]
    if differing:
        raise ConfigError(
            f"{directory} holds a run with other settings; choose another --run-dir, or ask for "
            "the same:\n  " + "\n  ".join(differing)
        )
