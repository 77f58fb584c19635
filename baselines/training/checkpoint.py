"""Files of a run: written whole or not at all, read without executing anything."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import nn

from baselines.errors import UserError

CHECKPOINT = re.compile(r"checkpoint-(\d{9})\.pt")


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not belong to this run."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then rename it.

    A reader, or a run killed at any moment, sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def save_torch(state: Mapping[str, Any], path: Path) -> None:
    """Save tensors and plain values for `load_torch`."""
    write_atomic(path, lambda file: torch.save(dict(state), file))


def load_torch(path: Path) -> dict[str, Any]:
    """Load what `save_torch` wrote, onto the CPU, with `weights_only=True`.

    Raises:
        CheckpointError: the file is missing or damaged, or holds anything but tensors and values.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dictionary")
    return state


def save_weights(module: nn.Module, path: Path, **description: Any) -> None:
    """Save a network's state as safetensors, with `description` as JSON in the header."""
    state = module.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {name: json.dumps(value) for name, value in description.items()}
    data = safetensors.torch.save(tensors, metadata=metadata)
    write_atomic(path, lambda file: file.write(data))


def load_weights(module: nn.Module, path: Path) -> nn.Module:
    """Make a file of `save_weights` the state of `module`, on the CPU; returns the module.

    Raises:
        CheckpointError: the file is missing or damaged, or its keys or shapes are not the module's.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        state = safetensors.torch.load_file(path)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from error
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit this network: {error}") from error
    return module


def checkpoint_path(run_dir: Path, images: int) -> Path:
    """Where the training state after `images` images lies."""
    return run_dir / f"checkpoint-{images:09d}.pt"


def checkpoints(run_dir: Path) -> list[Path]:
    """All complete checkpoints of a run, oldest first."""
    found = [path for path in run_dir.glob("checkpoint-*.pt") if CHECKPOINT.fullmatch(path.name)]
    return sorted(found)


def save_checkpoint(run_dir: Path, images: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write the training state, then remove all but the newest `keep` checkpoints."""
    path = checkpoint_path(run_dir, images)
    save_torch(state, path)
    for old in checkpoints(run_dir)[:-keep]:
        old.unlink()
    return path


def rng_state() -> dict[str, Any]:
    """The state of torch's global generators, on the CPU and on every CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` returned; CUDA states only where as many devices are in use."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
