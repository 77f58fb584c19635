"""Published models on the Hugging Face Hub, named `owner/name` or `owner/name@revision`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from baselines.errors import UserError
from baselines.runs import CONFIG, GENERATOR, PUBLISHED_ENCODERS, VOCABULARY

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
# What a published model consists of. Nothing else is fetched: no pickle comes from a stranger.
PUBLISHED = (CONFIG, VOCABULARY, PUBLISHED_ENCODERS, GENERATOR)


def is_name(place: str | Path) -> bool:
    """Whether `place` can only mean a model on the Hub.

    Nothing of that path is here, not even its first folder: a mistyped `runs/x` asks nobody.
    """
    if not isinstance(place, str) or not NAME.fullmatch(place):
        return False
    return not Path(place.partition("/")[0]).exists()


def fetch(name: str) -> Path:
    """Download a published model, or find it in the Hub's cache; returns its folder.

    Raises:
        UserError: there is no such model, no way to it, or it was not published from here; or
            huggingface_hub is missing.
    """
    hub = library(name)
    owner_and_name, _, revision = name.partition("@")
    try:
        found = hub.snapshot_download(
            owner_and_name, revision=revision or None, allow_patterns=list(PUBLISHED)
        )
    except Exception as error:
        raise UserError(
            f"{name}: no folder here, and not to be had from the Hugging Face Hub "
            f"({_reason(error)}); check the spelling and the network"
        ) from error
    folder = Path(found)
    missing = [file for file in PUBLISHED if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"{name}: is on the Hugging Face Hub without {', '.join(missing)}; only what "
            "python -m baselines.publish has made can be opened"
        )
    return folder


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a folder to the Hub, where the model is created if need be; returns its address.

    Raises:
        UserError: no such name is possible, the Hub refuses it or cannot be reached; or
            huggingface_hub is missing.
    """
    if not NAME.fullmatch(name) or "@" in name:
        raise UserError(f"{name}: expected OWNER/NAME, as the Hugging Face Hub names models")
    hub = library(name)
    try:
        api = hub.HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Publish with alr-layers"
        )
    except Exception as error:
        raise UserError(
            f"{name}: the Hugging Face Hub did not take it ({_reason(error)}); log in with "
            "`hf auth login` and a token that may write there"
        ) from error
    return str(address)


def library(purpose: str) -> Any:
    """The package huggingface_hub, imported when it is first needed.

    Raises:
        UserError: it is missing; names what it is needed for, and how to get it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"{purpose}: needs the huggingface_hub package: pip install huggingface_hub"
        ) from error
    return huggingface_hub


def _reason(error: Exception) -> str:
    """The first sentence or two of the library's message, which may go on for a page."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
