"""The resolved configuration of a run: frozen dataclasses, strict overrides, JSON round trip."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any


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
    """The generator and the discriminators; `name` is attngan, dmgan or alrgan."""

    name: str = "alrgan"
    feature_dim: int = 32
    discriminator_dim: int = 64
    condition_dim: int = 100
    noise_dim: int = 100
    base_size: int = 64
    stages: int = 3
    residual_blocks: int = 2

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Side in pixels of the image of every stage, smallest first."""
        return tuple(self.base_size * 2**stage for stage in range(self.stages))


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
    images: int = 5_000_000
    g_lr: float = 2e-4
    d_lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    ema: float = 0.999
    amp: str = "no"
    compile: bool = False


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
