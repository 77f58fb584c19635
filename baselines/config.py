"""The resolved configuration of a run: frozen dataclasses, strict overrides, JSON round trip."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from baselines import files
from baselines.errors import UserError

T = TypeVar("T")
Rule = tuple[Callable[[typing.Any], bool], str]


@dataclass(frozen=True)
class DataConfig:
    """Which images and captions.

    `root` is the folder of `cub`, `coco` and `folder`; `scenes` needs none and draws `train_images`
    and `test_images` scenes of up to `max_objects` objects from `seed`. `captions_per_image = 0`
    uses all there are.
    """

    name: str = "scenes"
    root: str = ""
    max_words: int = 18
    captions_per_image: int = 0
    min_count: int = 1
    workers: int = 0
    skip_broken: bool = False
    split_file: str = ""
    seed: int = 0
    train_images: int = 20000
    test_images: int = 1000
    max_objects: int = 3


@dataclass(frozen=True)
class EncoderConfig:
    """The DAMSM text and image encoders and how they are pre-trained (baselines_spec 2, 3, 8.1)."""

    embedding_dim: int = 256
    token_dim: int = 300
    dropout: float = 0.5
    trunk: str = "inception_v3"
    input_size: int = 299
    pretrained: bool = True
    train_trunk: bool = False
    batch_size: int = 48
    images: int = 0
    lr: float = 2e-3
    lr_decay: float = 0.98
    clip: float = 0.25


@dataclass(frozen=True)
class ModelConfig:
    """The generator and the discriminators; `name` is attngan, dmgan or alrgan.

    `single_image` leaves out all image heads and discriminators but the last (AttnDCGAN);
    `legacy_mask` reproduces the originals' mis-tiled padding mask (baselines_spec 4.6).
    """

    name: str = "alrgan"
    feature_dim: int = 32
    discriminator_dim: int = 64
    condition_dim: int = 100
    noise_dim: int = 100
    base_size: int = 64
    stages: int = 3
    residual_blocks: int = 2
    single_image: bool = False
    legacy_mask: bool = False

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Side in pixels of every image the generator draws, smallest first."""
        sizes = tuple(self.base_size * 2**stage for stage in range(self.stages))
        return sizes[-1:] if self.single_image else sizes


@dataclass(frozen=True)
class TermConfig:
    """How one added term enters the objective.

    The weight is 0 before `start` (steps), then rises linearly over `ramp` steps. With `share` > 0
    the term is rescaled so that its gradient at the stage's features is `share` times the
    host's gradient there (DESIGN 4: as printed it is a thousandth to a millionth of it).
    """

    weight: float = 1.0
    start: int = 0
    ramp: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class RefineConfig:
    """The terms that ALR adds to a host: `terms` is "", "alr" or "alr,lvr"."""

    terms: str = ""
    decode: str = "stage"
    gamma: float = 0.1
    mask: str = "soft"
    normalization: str = "paper"
    detach_target: bool = True
    alr: TermConfig = field(default_factory=TermConfig)
    reconstruction: TermConfig = field(default_factory=TermConfig)
    lvr: TermConfig = field(default_factory=TermConfig)


@dataclass(frozen=True)
class LossConfig:
    """Weights and temperatures of the host's losses (E13-E16, baselines_spec 6)."""

    damsm: float = 5.0
    kl: float = 1.0
    gamma1: float = 4.0
    gamma2: float = 5.0
    gamma3: float = 10.0
    wrong: str = "derange"


@dataclass(frozen=True)
class OptimConfig:
    """Optimisers, averaging and arithmetic; `images` is the length of training in images seen."""

    batch_size: int = 20
    accumulate: int = 1
    images: int = 5_000_000
    g_lr: float = 2e-4
    d_lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    ema: float = 0.999
    amp: str = "no"


@dataclass(frozen=True)
class RunConfig:
    """Seed, device and how often a run logs, draws and saves (in steps)."""

    seed: int = 0
    device: str = "auto"
    log_every: int = 50
    grid_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 2
    tensorboard: bool = False


@dataclass(frozen=True)
class Config:
    """Everything that determines a run; saved in its directory and in every checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)


class ConfigError(UserError):
    """A configuration key or value that does not fit; the message names it and the remedy."""


# Values that mean something only from a closed list; anything else is refused when it is set.
CHOICES: dict[str, tuple[str, ...]] = {
    "data.name": ("scenes", "cub", "coco", "folder"),
    "model.name": ("attngan", "dmgan", "alrgan"),
    "refine.terms": ("", "alr", "alr,lvr"),
    "refine.decode": ("head", "stage"),
    "refine.mask": ("soft", "hard"),
    "refine.normalization": ("paper", "rms"),
    "loss.wrong": ("shift", "derange"),
    "optim.amp": ("no", "bf16", "fp16"),
}


def _at_least(lowest: float) -> Rule:
    return (lambda value: value >= lowest), f"expected {lowest:g} or more"


ABOVE_ZERO: Rule = (lambda value: value > 0), "expected a number above 0"
UNIT: Rule = (lambda value: 0 <= value <= 1), "expected a number between 0 and 1"
TERM_KEYS = [
    f"refine.{term}.{name}"
    for term in ("alr", "reconstruction", "lvr")
    for name in ("weight", "start", "ramp", "share")
]

# What a number must satisfy, by key; the message completes "key=value: ".
RULES: dict[str, Rule] = {
    "model.base_size": (
        lambda value: value >= 8 and value & (value - 1) == 0,
        "expected a power of two, 8 or more",
    ),
    "optim.batch_size": _at_least(2),
    "optim.accumulate": _at_least(1),
    "encoder.batch_size": _at_least(2),
    **dict.fromkeys(
        [
            "data.max_words", "data.min_count", "data.train_images", "data.test_images",
            "encoder.embedding_dim", "encoder.token_dim", "encoder.input_size", "encoder.lr",
            "model.feature_dim", "model.discriminator_dim", "model.condition_dim",
            "model.noise_dim", "model.stages", "optim.images", "optim.g_lr", "optim.d_lr",
            "run.log_every", "run.grid_every", "run.checkpoint_every", "run.keep",
        ],
        ABOVE_ZERO,
    ),
    **dict.fromkeys(
        ["encoder.dropout", "refine.gamma", "optim.ema", "optim.beta1", "optim.beta2"], UNIT
    ),
    **dict.fromkeys(
        [
            "data.captions_per_image", "data.workers", "encoder.images", "encoder.clip",
            "model.residual_blocks", "loss.damsm", "loss.kl",
            *TERM_KEYS,
        ],
        _at_least(0),
    ),
    "data.max_objects": (lambda value: value in (1, 2, 3), "expected 1, 2 or 3"),
}  # fmt: skip


def to_dict(config: Any) -> dict[str, Any]:
    """A nested dictionary of plain values, in the order of declaration."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Build `cls` from a nested dictionary; missing keys keep their defaults.

    Raises:
        ConfigError: an unknown key (the nearest one is named), a wrong type or an impossible value.
    """
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        key = prefix + name
        if name not in hints:
            raise ConfigError(unknown_key(key, [prefix + known for known in hints]))
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key}: {value!r} is not a group of settings")
            arguments[name] = from_dict(typing.cast(type, hints[name]), value, key + ".")
        else:
            arguments[name] = checked(key, value, hints[name])
    return cls(**arguments)


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Apply `group.key=value` strings as given on the command line, later ones winning.

    Raises:
        ConfigError: an assignment without `=`, an unknown key or a value of the wrong type.
    """
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: write it as group.key=value")
        config = replace_path(config, key.strip(), text.strip())
    return config


def replace_path(config: Config, key: str, text: str) -> Config:
    """A copy of `config` with the value at the dotted `key` parsed from `text`."""
    node: Any = config
    parents = []
    parts = key.split(".")
    for depth, part in enumerate(parts):
        hints = typing.get_type_hints(type(node))
        if part not in hints:
            raise ConfigError(unknown_key(key, list(all_keys(Config))))
        is_group = dataclasses.is_dataclass(hints[part])
        if is_group != (depth < len(parts) - 1):
            raise ConfigError(
                f"{key}: names a group; its keys are {', '.join(all_keys(hints[part], key + '.'))}"
                if is_group
                else unknown_key(key, list(all_keys(Config)))
            )
        parents.append((node, part))
        node = getattr(node, part)
    value: Any = checked(key, parse(key, text, type(node)), type(node))
    for parent, part in reversed(parents):
        value = dataclasses.replace(parent, **{part: value})
    return typing.cast(Config, value)


def parse(key: str, text: str, kind: type) -> Any:
    """Read `text` as a value of type `kind`."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ConfigError(f"{key}={text}: expected true or false")
    try:
        return kind(text.replace("_", "")) if kind is int else kind(text)
    except ValueError:
        raise ConfigError(f"{key}={text}: expected {kind.__name__}") from None


def checked(key: str, value: Any, kind: type) -> Any:
    """`value` if it may stand at `key`; an int is accepted where a float is expected."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{key}={value!r}: expected {kind.__name__}, got {type(value).__name__}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: expected a finite number")
    if key in CHOICES and value not in CHOICES[key]:
        choices = ", ".join(repr(choice) for choice in CHOICES[key])
        raise ConfigError(f"{key}={value!r}: expected one of {choices}")
    holds, expectation = RULES.get(key, (None, ""))
    if holds is not None and not holds(value):
        raise ConfigError(f"{key}={value}: {expectation}")
    return value


def all_keys(cls: Any, prefix: str = "") -> Iterable[str]:
    """Every dotted key below `cls`."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from all_keys(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that does not exist, naming the nearest that does."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {key!r}; the nearest is {nearest[0]!r}"


def save_config(config: Config, path: Path) -> None:
    """Write `config` as JSON with a checksum."""
    files.write_json(path, to_dict(config))


def load_config(path: Path) -> Config:
    """Read a configuration written by `save_config`.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    content = files.read_json(path)
    try:
        return from_dict(Config, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
