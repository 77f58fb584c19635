"""A run's weights, settings and words as a folder for others, and that folder on the Hub."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from baselines import hub
from baselines.config import Config, save_config
from baselines.errors import UserError
from baselines.files import write_text
from baselines.publishing.card import entries_of, model_card
from baselines.runs import (
    CONFIG,
    GENERATOR,
    PUBLISHED_ENCODERS,
    VOCABULARY,
    load_run,
    publish_encoders,
)
from baselines.training.checkpoint import read_description, save_weights

CARD = "README.md"
UNKNOWN = "unknown"  # the Hub's word for a licence that is not stated


def write_snapshot(
    run_dir: Path | str,
    folder: Path | str,
    *,
    licence: str = UNKNOWN,
    weights: str = GENERATOR,
    place: str = "",
) -> Path:
    """Write what others need of a run into `folder`, which `baselines.load` opens; returns it.

    Its files are JSON and safetensors with checksums, and a model card. Names of local folders are
    left out of the settings.

    Args:
        run_dir: the run.
        folder: new or empty.
        licence: of the weights, as the Hub calls it: "mit", "cc-by-4.0", ...
        weights: the file of the run to publish, such as "best.safetensors".
        place: what the model card tells to call `baselines.load` with; "": the folder.

    Raises:
        CheckpointError: the directory is no run, or a file of it is missing or damaged.
        UserError: the folder is not empty, or huggingface_hub, which writes the card, is missing.
    """
    run_dir, folder = Path(run_dir), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: not empty; choose a new folder")
    run = load_run(run_dir, weights=weights)  # read and verified before anything is written
    known = read_description(run_dir / weights)
    text = model_card(
        run,
        place=place or str(folder),
        licence=licence,
        images=known.get("images"),
        entries=entries_of(run),
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_config(without_places(run.config), folder / CONFIG)
    run.encoders.vocabulary.save(folder / VOCABULARY)
    publish_encoders(run.encoders, folder / PUBLISHED_ENCODERS)
    save_weights(run.generator, folder / GENERATOR, **known)
    write_text(folder / CARD, text)
    return folder


def without_places(config: Config) -> Config:
    """`config` without what is true of one machine alone: folders and the device."""
    split_file = Path(config.data.split_file).name
    return replace(
        config,
        data=replace(config.data, root="", cache="", split_file=split_file),
        run=replace(config.run, device="auto"),
    )


def push_to_hub(
    run_dir: Path | str,
    name: str,
    *,
    licence: str = UNKNOWN,
    weights: str = GENERATOR,
    private: bool = False,
) -> str:
    """Publish a run on the Hugging Face Hub as `owner/name`; returns its address.

    Args:
        run_dir: the run.
        name: "owner/name" on the Hub; made if there is none, else its files are replaced.
        licence: of the weights, as the Hub calls it.
        weights: the file of the run to publish.
        private: make a new model visible to its owner alone.

    Raises:
        CheckpointError: the directory is no run, or a file of it is missing or damaged.
        UserError: the Hub refuses it or cannot be reached, or huggingface_hub is missing.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = write_snapshot(
            run_dir, Path(made) / "snapshot", licence=licence, weights=weights, place=name
        )
        return hub.push(folder, name, private=private)
