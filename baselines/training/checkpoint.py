"""Training states and weights: saved with a checksum, read without executing anything."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from baselines import files
from baselines.data.pickle_scan import UnsafePickleError, check_opcodes
from baselines.errors import UserError

logger = logging.getLogger(__name__)
# All that torch.save names for tensors and plain values.
PLAIN = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor_v2|parameter)"
    r"|torch\.(\w+Storage|storage\.\w+Storage|Size|device)"
)
CHECKPOINT = re.compile(r"checkpoint-(\d{9,})\.pt")


class NonFiniteError(UserError):
    """A logged term or a weight became NaN or infinite; the message names it and the step."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not belong to this run."""


def save_torch(state: Mapping[str, Any], path: Path, **facts: Any) -> None:
    """Save tensors and plain values for `load_torch`, with a checksum.

    `facts` (plain values) can be read back by `read_facts` without loading the state.
    """
    start = json.dumps(facts).removesuffix("}") + (", " if facts else "")
    comment = start.encode() + files.ZIP.blank

    def write(file: IO[bytes]) -> None:
        torch.save(dict(state), file)
        # A zip archive ends with the length of its comment and the comment.
        file.seek(-2, os.SEEK_END)
        file.write(len(comment).to_bytes(2, "little") + comment)

    files.write_atomic(path, write, seal=files.ZIP)


def read_facts(path: Path) -> dict[str, Any]:
    """What `save_torch` noted beside a state; {} where nothing is noted or it is unreadable."""
    if not path.is_file():
        return {}  # opening a pipe would wait for its other end for ever
    with open(path, "rb") as file:
        comment = files.zip_comment(file)
    try:
        facts = json.loads(comment or b"")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def load_torch(path: Path, *, ours: bool = True) -> dict[str, Any]:
    """Load what `save_torch` wrote, onto the CPU, with `weights_only=True`.

    Args:
        path: the file.
        ours: whether a missing checksum is worth a line in the log.

    Raises:
        CheckpointError: the file is missing or damaged, or holds anything but tensors and values.
    """
    require_intact(path, ours=ours)
    try:
        _require_plain(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{path}: refused, and nothing of it was run: it {error}, but only tensors and plain "
            "values are read; save a plain state_dict with the program it is from"
        ) from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint: damaged, or not written by torch.save "
            f"({type(error).__name__}); restore it from a copy"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dictionary")
    return state


def _require_plain(path: Path) -> None:
    """Look through the pickle in a torch file before torch builds anything from it.

    `weights_only` runs nothing that is not allowed, but a few hundred bytes of tuples of tuples as
    a key, or a call to fill memory, would keep it busy for ever.

    Raises:
        UnsafePickleError: it names or holds anything that tensors and plain values do not need.
        zipfile.BadZipFile: no archive as torch.save has written them since 1.6.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile("compressed, as torch.save never writes it")
            if entry.filename.endswith(".pkl"):
                check_opcodes(archive.read(entry), PLAIN)


def save_weights(module: nn.Module, path: Path, **description: Any) -> None:
    """Save a network's state as safetensors with a checksum, and `description` in the header."""
    state = module.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    data = safetensors.torch.save(tensors)
    length = int.from_bytes(data[:8], "little")
    metadata = {name: json.dumps(value) for name, value in description.items()}
    # The seal has a fixed place only if the metadata come first.
    header = files.SAFETENSORS.blank.decode()
    header += "".join(f",{json.dumps(k)}:{json.dumps(v)}" for k, v in metadata.items()) + "},"
    entries = json.loads(data[8 : 8 + length])
    header += json.dumps(entries, separators=(",", ":")).removeprefix("{")
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)

    def write(file: IO[bytes]) -> None:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.write(memoryview(data)[8 + length :])

    files.write_atomic(path, write, seal=files.SAFETENSORS)


def load_weights(module: nn.Module, path: Path) -> nn.Module:
    """Make a file of `save_weights` the state of `module`, on the CPU; returns the module.

    Raises:
        CheckpointError: the file is missing or damaged, or its keys or shapes are not the module's.
    """
    require_intact(path)
    try:
        state = safetensors.torch.load_file(path)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); restore it from a copy"
        ) from error
    if differences := _differences(module.state_dict(), state):
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{path}: does not fit the network that its configuration describes: "
            + "; ".join(differences[:3])
            + more
        )
    module.load_state_dict(state, assign=True)
    return module


def _differences(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> list[str]:
    """In words, in what a file's tensors differ from those of a network."""
    lines = [f"{name} is missing" for name in here if name not in there]
    lines += [f"{name} is unknown" for name in sorted(there.keys() - here.keys())]
    for name, tensor in here.items():
        found = there.get(name, tensor)
        if found.shape != tensor.shape:
            lines.append(f"{name} has shape {tuple(found.shape)}, expected {tuple(tensor.shape)}")
        elif found.dtype != tensor.dtype:
            lines.append(f"{name} has dtype {found.dtype}, expected {tensor.dtype}")
    return lines


def read_description(path: Path) -> dict[str, Any]:
    """What `save_weights` noted in the header of a file, without reading the weights.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    require_intact(path)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        return {name: json.loads(text) for name, text in metadata.items() if name != "sha256"}
    except Exception as error:
        raise CheckpointError(
            f"{path}: its header cannot be read ({error}); restore it from a copy"
        ) from error


def require_intact(path: Path, *, ours: bool = True) -> None:
    """Refuse a file that is missing or does not match its checksum.

    A file of ours without a checksum is from an earlier version: said once for each folder.

    Raises:
        CheckpointError: naming the file.
    """
    try:
        files.require_file(path)
        sealed = files.is_sealed(path)
    except UserError as error:
        raise CheckpointError(str(error)) from error
    if ours and not sealed:
        note_unsealed(path.parent)


@cache
def note_unsealed(directory: Path) -> None:
    """Say once that the files of a folder carry no checksums."""
    logger.warning(
        "%s: written without checksums by an earlier version, so damage would go unnoticed; "
        "what is saved from now on carries them",
        directory,
    )


def checkpoint_path(run_dir: Path, images: int) -> Path:
    """Where the training state after `images` images lies."""
    return run_dir / f"checkpoint-{images:010d}.pt"


def checkpoints(run_dir: Path) -> list[Path]:
    """All complete checkpoints of a run, the least trained first, as their contents say."""
    found = [path for path in run_dir.glob("checkpoint-*.pt") if CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: (images_of(path), path.name))


def images_of(path: Path) -> int:
    """How many images a checkpoint has seen, as its content says; its name, if that is damaged."""
    named = CHECKPOINT.fullmatch(path.name)
    by_name = int(named[1]) if named else -1
    if read_facts(path).get("images") == by_name:
        return by_name
    try:
        seen = load_torch(path, ours=False)["progress"]["images"]
    except (CheckpointError, LookupError, TypeError):
        return by_name
    return seen if isinstance(seen, int) else by_name


def save_checkpoint(run_dir: Path, images: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write the training state, then remove all but the newest `keep` checkpoints.

    Checkpoints of more images, as a run that went on from an earlier one leaves behind, no longer
    belong to it: they stay as `*.superseded`.
    """
    path = checkpoint_path(run_dir, images)
    save_torch(state, path, images=images)
    seen = {found: images_of(found) for found in checkpoints(run_dir) if found != path}
    for later in [found for found in seen if seen[found] >= images]:
        later.replace(later.with_name(later.name + ".superseded"))
    earlier = [found for found in seen if seen[found] < images]
    for old in earlier[: max(0, len(earlier) + 1 - keep)]:
        old.unlink()
    return path


def require_finite(state: Mapping[str, Any]) -> None:
    """Refuse a training state with NaN or infinity in a network or an optimiser.

    Raises:
        NonFiniteError: naming the first tensor of each.
    """
    found = [
        name
        for part in ("networks", "optimizers")
        for key, value in state[part].items()
        for name in islice(non_finite(value, key), 1)
    ]
    if found:
        raise NonFiniteError(", ".join(found))


def non_finite(state: Any, name: str) -> Iterator[str]:
    """Names of the tensors with NaN or infinity in a nested state."""
    if isinstance(state, torch.Tensor):
        if state.is_floating_point() and not torch.isfinite(state).all():
            yield name
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from non_finite(value, f"{name}.{key}")


def rng_state() -> dict[str, Any]:
    """The state of torch's global generators, on the CPU and on every CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` returned; CUDA states only where as many devices are in use."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
