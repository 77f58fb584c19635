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

import hashlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baselines.config import Config, ConfigError, EncoderConfig, from_dict, load_config, to_dict
from baselines.data.source import Source
from baselines.data.vocabulary import Vocabulary
from baselines.hosts.models import build_generator, build_image_encoder, build_text_encoder
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import StackedGenerator
from baselines.training.checkpoint import (
    CheckpointError,
    checkpoints,
    load_torch,
    load_weights,
    require_intact,
    save_torch,
)
from baselines.training.distributed import World
from baselines.training.lock import locked

CONFIG = "config.json"
VOCABULARY = "vocabulary.json"
ENCODERS = "encoders.pt"
GENERATOR = "generator.safetensors"
INITIAL = "initial.safetensors"
ENCODER_SECTIONS = ("text", "image", "vocabulary", "encoder")
STATE_SECTIONS = ("networks", "optimizers", "scaler", "progress", "rng", "config", "vocabulary")
NEWEST, PREVIOUS = "newest", "previous"  # choices of --resume


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
    generator: StackedGenerator


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
    if path.is_dir():
        path = path / ENCODERS
    state = load_torch(path)
    require_sections(state, ENCODER_SECTIONS, path, "a file of encoders")
    config = from_dict(EncoderConfig, state["encoder"], "encoder.")
    vocabulary = Vocabulary.from_dict(state["vocabulary"])
    with torch.device("meta"):
        text = build_text_encoder(config, len(vocabulary))
        image = build_image_encoder(config)
    try:
        text.load_state_dict(state["text"], assign=True)
        image.load_state_dict(state["image"], assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its weights do not fit its own settings ({one_line(error)})"
        ) from error
    return Encoders(text.eval(), image.eval(), vocabulary, config)


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


@contextmanager
def held(run_dir: Path, world: World) -> Iterator[None]:
    """Keep other trainings out of a run directory while this one, of all ranks, works in it.

    Raises:
        RunInUseError: naming the training that is there.
    """
    with locked(run_dir) if world.is_main else nullcontext():
        yield


def newest_state(
    config: Config, run_dir: Path, vocabulary: Vocabulary, *, resume: str = NEWEST
) -> dict[str, Any] | None:
    """The checkpoint that the run goes on from, refused if it is of other settings or words.

    Args:
        config: the settings asked for.
        run_dir: the run.
        vocabulary: the words asked for.
        resume: `NEWEST`, or `PREVIOUS` for the one before it.

    Raises:
        CheckpointError: it is damaged; names the newest one that is not.
        ConfigError: it is of other settings.
    """
    found = checkpoints(run_dir)
    if resume == PREVIOUS:
        found = found[:-1]
        if not found:
            raise CheckpointError(f"{run_dir}: there is no previous checkpoint; leave --resume out")
    if not found:
        return None
    try:
        saved = load_torch(found[-1])
        require_sections(saved, STATE_SECTIONS, found[-1], "a complete training state")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_remedy(found[:-1], resume)}") from error
    require_same_config(from_dict(Config, saved["config"]), config, run_dir)
    vocabulary.require_same(Vocabulary.from_dict(saved["vocabulary"]), str(found[-1]))
    return saved


def _remedy(earlier: Sequence[Path], resume: str) -> str:
    """What to do about a damaged checkpoint that has `earlier` ones."""
    for path in reversed(earlier):
        try:
            require_intact(path, ours=False)
        except CheckpointError:
            continue
        if resume == NEWEST and path == earlier[-1]:
            return f"--resume previous goes on from {path.name}"
        return f"{path.name} is intact: move the later ones away to go on from it"
    return "there is no earlier one: choose another --run-dir to start anew"


def origin(source: Source, encoders: Encoders | None = None) -> dict[str, str]:
    """Fingerprints of what a run is trained on, for its checkpoints."""
    found = {"training data": data_fingerprint(source)}
    return found if encoders is None else found | {"encoders": encoders.fingerprint}


def data_fingerprint(source: Source) -> str:
    """The same for the same images and captions, wherever they lie."""
    known = getattr(source, "fingerprint", None)
    if isinstance(known, str):
        return known
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(f"{source.key(index)}\0{source.captions(index)}\n".encode())
    return f"{len(source)} images, {digest.hexdigest()[:16]}"


def require_same_origin(
    saved: Mapping[str, Any] | None, now: Mapping[str, str], run_dir: Path
) -> None:
    """Refuse to go on with a run on other data or encoders than it began with.

    A checkpoint of an earlier version, which does not say, is accepted.

    Raises:
        ConfigError: naming what changed.
    """
    before = (saved or {}).get("origin", {})
    changed = [
        f"{name}: {before[name]} in the run, {value} now"
        for name, value in now.items()
        if before.get(name, value) != value
    ]
    if changed:
        raise ConfigError(
            f"{run_dir} was trained on something else; restore it or choose another --run-dir: "
            + "; ".join(changed)
        )


def require_same_start(
    config: Config,
    run_dir: Path,
    saved: Mapping[str, Any] | None,
    origin: Mapping[str, str],
    world: World,
) -> None:
    """Refuse to start on other data or encoders than before, or on other ones than other ranks.

    Raises:
        ConfigError: naming what changed since the run began.
        RankError: naming the ranks and what differs.
    """
    require_same_origin(saved, origin, run_dir)
    world.require_same(start_facts(config, origin, saved))


def start_facts(
    config: Config, origin: Mapping[str, str], saved: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What must be the same on all ranks of a job when it starts."""
    progress = {} if saved is None else saved["progress"]
    return {
        **_flat(to_dict(config)),
        **origin,
        "images seen": progress.get("images", 0),
        "code": code_version(),
        "torch": torch.__version__,
    }


def code_version() -> str:
    """A fingerprint of this project's source files: 16 hexadecimal digits."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in ("alr_layers", "baselines"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def require_same_config(saved: Config, asked: Config, directory: Path) -> None:
    """Refuse to go on with a run under settings that would make it another one.

    The length of training and everything in `run` but the seed may change.

    Raises:
        ConfigError: naming every setting that differs.
    """
    free = {"optim.images", "encoder.images", "data.workers"}
    old, new = _flat(to_dict(saved)), _flat(to_dict(asked))
    differing = [
        f"{key}: {old[key]!r} in the run, {new[key]!r} asked for"
        for key in new
        if old.get(key) != new[key]
        and key not in free
        and (not key.startswith("run.") or key == "run.seed")
    ]
    if differing:
        raise ConfigError(
            f"{directory} holds a run with other settings; choose another --run-dir, or ask for "
            "the same:\n  " + "\n  ".join(differing)
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


if __name__ == "__main__":
    from baselines.cli import run_command
    from baselines.inventory import main

    run_command(main)
