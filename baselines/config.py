"""The resolved configuration of a run. Every setting stands here, once, on a line of its own.

A setting has its default, its meaning, the rule for its values, and says whether a run may go on
with another value (`resume=True`) and which command alone reads it (`only`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from baselines import files
from baselines.settings import (
    ConfigError,
    Group,
    above,
    at_least,
    between,
    flat,
    from_dict,
    one_of,
    override,
    rate,
    registered,
    rule,
    setting,
    settings,
    to_dict,
    unknown_key,
)

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "EncoderConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RefineConfig",
    "RunConfig",
    "StreamConfig",
    "TermConfig",
    "flat",
    "from_dict",
    "load_config",
    "override",
    "save_config",
    "settings",
    "to_dict",
    "unknown_key",
]

SOURCES = registered("baselines.data:SOURCES")
HOSTS = registered("baselines.hosts:HOSTS")
POWER_OF_TWO = rule(
    lambda value: value >= 8 and value & (value - 1) == 0, "a power of two, 8 or more"
)
EVEN = rule(lambda value: value > 0 and value % 2 == 0, "an even number above 0")
MOMENTUM = rule(lambda value: 0 <= value < 1, "a number from 0 to below 1")
SEED = rule(lambda value: -(2**63) <= value < 2**63, "64 bits")


@dataclass(frozen=True)
class DataConfig(Group):
    """Which images and captions."""

    name: str = setting(
        "scenes",
        "which data set; scenes are drawn, folder is your own images",
        SOURCES,
    )
    root: str = setting("", "folder of the data set, --data-root; scenes has none", resume=True)
    max_words: int = setting(18, "words of a caption that are used", above(0))
    captions_per_image: int = setting(0, "captions of an image that are used, 0: all", at_least(0))
    min_count: int = setting(1, "how often a word must occur to have its own code", above(0))
    workers: int = setting(
        0, "processes that load images, 0: the trainer itself", at_least(0), resume=True
    )
    cache: str = setting(
        "",
        "folder for images decoded and resized once, of cub, coco and folder: later starts, ranks "
        "and workers read them instead of decoding, to the same pixels; auto: below data.root; "
        "'': none",
        resume=True,
    )
    skip_broken: bool = setting(False, "leave out broken images and captions, --skip-broken")
    split_file: str = setting("", "file that names a folder's test images, --split-file")
    seed: int = setting(0, "from which scenes are drawn", SEED)
    train_images: int = setting(20000, "scenes of the training split", above(0))
    test_images: int = setting(1000, "scenes of the test split", above(0))
    max_objects: int = setting(3, "objects of a scene at most", between(1, 3))
    tokens: str = setting(
        "auto",
        "letters outside ASCII when a vocabulary is built: ascii drops them as the originals do, "
        "unicode keeps them; auto: as the data set is usually read",
        one_of("auto", "ascii", "unicode"),
    )
    max_unknown: float = setting(
        0.2, "share of the captions' words that encoders may not know", between(0, 1), resume=True
    )
    shuffle_buffer: int = setting(
        10_000, "images of webdataset that are shuffled together, 0: all", at_least(0)
    )


@dataclass(frozen=True)
class EncoderConfig(Group):
    """DAMSM's text and image encoders and how they are pre-trained."""

    embedding_dim: int = setting(256, "E, width of words, sentences and regions", EVEN)
    token_dim: int = setting(300, "width of the word embedding", above(0))
    dropout: float = setting(0.5, "on the word embedding, in training", between(0, 1))
    trunk: str = setting(
        "inception_v3", "network of the image encoder: inception_v3, small, timm's"
    )
    input_size: int = setting(299, "side in pixels of what the image encoder sees", above(0))
    pretrained: bool = setting(True, "start the trunk from ImageNet weights")
    train_trunk: bool = setting(False, "let the trunk learn")
    batch_size: int = setting(48, "image-caption pairs of a step on one process", at_least(2))
    images: int = setting(0, "length of the training in images seen", at_least(0), resume=True)
    lr: float = setting(2e-3, "learning rate of Adam", rate())
    lr_decay: float = setting(
        0.98,
        "factor on the learning rate after every epoch, down to a tenth",
        rate(),
    )
    clip: float = setting(
        0.25, "norm that the text encoder's gradient is cut to, 0: never", at_least(0)
    )
    amp: str = setting(
        "no",
        "arithmetic of the image encoder in pre-training, as optim.amp",
        one_of("no", "auto", "bf16"),
    )


@dataclass(frozen=True)
class StreamConfig(Group):
    """MirrorGAN's captioner, STREAM, and how it is pre-trained."""

    trunk: str = setting(
        "resnet152.tv_in1k", "network that the captioner sees with: small, or one of timm's"
    )
    input_size: int = setting(224, "side in pixels of what the trunk sees", above(0))
    aligned_corners: bool = setting(False, "resize images with their corners aligned")
    normalise: bool = setting(
        False, "give a timm trunk ImageNet's mean and deviation, which the original does not"
    )
    start: str = setting(
        "imagenet",
        "weights that the trunk starts from: ImageNet's, those of DAMSM's image encoder (of the "
        "same trunk, in --encoders), or random ones",
        one_of("imagenet", "damsm", "random"),
    )
    train_trunk: bool = setting(False, "let the trunk learn")
    embedding_dim: int = setting(256, "width of image features and words", above(0))
    hidden_dim: int = setting(512, "width of the LSTM", above(0))
    batch_size: int = setting(128, "image-caption pairs of a step on one process", at_least(2))
    images: int = setting(0, "length of the training in images seen", at_least(0), resume=True)
    lr: float = setting(1e-3, "learning rate of Adam", rate())


@dataclass(frozen=True)
class ModelConfig(Group):
    """The generator and the discriminators."""

    name: str = setting("alrgan", "the host, set by the command: train MODEL", HOSTS)
    feature_dim: int = setting(32, "g, channels that an image is painted from", above(0))
    discriminator_dim: int = setting(64, "d, channels of a discriminator's first layer", above(0))
    discriminator_norm: str = setting(
        "", "norm of the discriminators, '': the host's own", one_of("", "batch", "spectral")
    )
    condition_dim: int = setting(100, "width of the conditioning augmentation", above(0))
    noise_dim: int = setting(100, "width of the noise", above(0))
    base_size: int = setting(64, "side in pixels of the first stage's image", POWER_OF_TWO)
    stages: int = setting(3, "stages, each doubles the side of the one before", above(0))
    residual_blocks: int = setting(2, "residual blocks of a refinement stage", at_least(0))
    single_image: bool = setting(False, "paint and judge the last stage only (AttnDCGAN)")
    legacy_mask: bool = setting(False, "the originals' mis-tiled padding mask (AttnGAN issue 93)")

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Side in pixels of every image the generator draws, smallest first."""
        sizes = tuple(self.base_size * 2**stage for stage in range(self.stages))
        return sizes[-1:] if self.single_image else sizes


@dataclass(frozen=True)
class TermConfig(Group):
    """How one added term enters the objective.

    The weight is 0 before `start`, then rises linearly over `ramp` steps. With `share` > 0 the
    term is rescaled so that its gradient at the stage's features is `share` times the host's
    gradient there; as printed it is a thousandth to a millionth of it.
    """

    weight: float = setting(1.0, "factor on the term", at_least(0))
    start: int = setting(0, "steps before it enters", at_least(0))
    ramp: int = setting(0, "steps over which its weight rises", at_least(0))
    share: float = setting(
        0.0, "share of the host's gradient it is held at, 0: as it comes", at_least(0)
    )


@dataclass(frozen=True)
class RefineConfig(Group):
    """The terms that ALR adds to a host."""

    terms: str = setting("", "added terms, '' for none; see --refine", one_of("", "alr", "alr,lvr"))
    source: str = setting(
        "module",
        "where the layouts of real and synthesized images come from: the stage's own module, or "
        "DAMSM's word-region attention",
        one_of("module", "damsm"),
    )
    decode: str = setting(
        "stage",
        "what decodes the refined features: the whole next stage or the image head",
        one_of("head", "stage"),
    )
    gamma: float = setting(0.1, "γ, similarity that parts easy from hard regions", between(0, 1))
    weighting: str = setting(
        "learned",
        "of easy and hard elements: α and β of φ (E8), or both 1, an extension",
        one_of("learned", "equal"),
    )
    mask: str = setting("soft", "how LVR weighs a region by the layout", one_of("soft", "hard"))
    normalization: str = setting(
        "paper", "of the norms: 1/(N·D) as printed, or rms", one_of("paper", "rms")
    )
    detach_target: bool = setting(True, "let no gradient into the real image's layout")
    every: int = setting(
        1,
        "steps from one that refines to the next; what is added weighs as many times as much there",
        at_least(1),
    )
    alr: TermConfig = field(default_factory=TermConfig)
    reconstruction: TermConfig = field(default_factory=TermConfig)
    lvr: TermConfig = field(default_factory=TermConfig)

    @property
    def names(self) -> tuple[str, ...]:
        """The added terms one by one: (), ("alr",) or ("alr", "lvr")."""
        return tuple(self.terms.split(",")) if self.terms else ()


@dataclass(frozen=True)
class LossConfig(Group):
    """Weights and temperatures of the host's losses (E13-E16)."""

    damsm: float = setting(5.0, "weight of DAMSM's terms, 0: none", at_least(0), only="train")
    kl: float = setting(1.0, "weight of the conditioning's KL term", at_least(0), only="train")
    caption: float = setting(
        0.0, "weight of the captioner's loss (mirrorgan), 0: none", at_least(0), only="train"
    )
    unconditional: float = setting(
        1.0, "weight of the unconditional heads (stackgan)", at_least(0), only="train"
    )
    colour: float = setting(
        0.0, "weight of the colours' agreement between sizes (stackgan)", at_least(0), only="train"
    )
    penalty: float = setting(
        2.0, "weight of the matching-aware gradient penalty (dfgan)", at_least(0), only="train"
    )
    gamma1: float = setting(4.0, "γ1, sharpness of a word's attention over regions", above(0))
    gamma2: float = setting(5.0, "γ2, sharpness of the best word in a caption's score", above(0))
    gamma3: float = setting(10.0, "γ3, sharpness among the captions of a batch", above(0))
    wrong: str = setting(
        "derange",
        "wrong captions of D: of another class where possible, or the batch shifted by one",
        one_of("shift", "derange"),
        only="train",
    )
    bank: int = setting(
        0,
        "captions of the latest steps that an image's sentence code must tell from its own, beside "
        "the batch's; 0: the original",
        at_least(0),
        only="train",
    )


@dataclass(frozen=True)
class OptimConfig(Group):
    """Optimisers, averaging and arithmetic."""

    batch_size: int = setting(20, "images of a step on one process", at_least(2))
    accumulate: int = setting(1, "batches whose gradients make one step", at_least(1))
    images: int = setting(5_000_000, "length of training in images seen", above(0), resume=True)
    g_lr: float = setting(2e-4, "learning rate of the generator's Adam", rate())
    d_lr: float = setting(2e-4, "learning rate of each discriminator's Adam", rate())
    decay: float = setting(
        0.0, "last share of the run over which both rates fall linearly to 2 %", between(0, 1)
    )
    beta1: float = setting(0.5, "Adam's decay of the mean", MOMENTUM)
    beta2: float = setting(0.999, "Adam's decay of the square", MOMENTUM)
    ema: float = setting(0.999, "decay of the averaged generator", between(0, 1))
    legacy_snapshot: int = setting(
        0, "steps after which the average becomes the generator (stackgan), 0: never", at_least(0)
    )
    checkpoint_activations: bool = setting(
        False,
        "compute the activations of the generator's stages and of the discriminators' layers again "
        "in the backward pass instead of keeping them: less memory, more time",
        resume=True,
    )
    sync_batch_norm: bool = setting(
        False, "batch norms of the host see the batch of all processes, not of each its own"
    )
    amp: str = setting(
        "no",
        "arithmetic of the step: float32, mixed bf16 or fp16; auto: bf16 where the hardware "
        "multiplies it natively, else float32",
        one_of("no", "auto", "bf16", "fp16"),
    )


@dataclass(frozen=True)
class RunConfig(Group):
    """Seed, device and how often a run logs, draws and saves."""

    seed: int = setting(0, "of initial weights, noise and the order of images", SEED)
    device: str = setting(
        "auto", "where it computes: auto, cpu, cuda, cuda:1 and so on", resume=True
    )
    log_every: int = setting(50, "steps between lines of the log", above(0), resume=True)
    grid_every: int = setting(
        1000, "steps between grids of pictures", above(0), resume=True, only="train"
    )
    evaluate_every: int = setting(
        0, "steps between evaluations, 0: never", at_least(0), resume=True, only="train"
    )
    evaluate: str = setting(
        "r_precision,fid",
        "what such an evaluation measures, metrics of baselines.evaluate; graded for scenes",
        resume=True,
        only="train",
    )
    best: str = setting(
        "",
        "row of the evaluation whose best weights are kept as best.safetensors, such as "
        "graded/place; '': none",
        resume=True,
        only="train",
    )
    checkpoint_every: int = setting(1000, "steps between checkpoints", above(0), resume=True)
    keep: int = setting(2, "checkpoints that are kept", above(0), resume=True)
    tensorboard: bool = setting(False, "write events for TensorBoard too", resume=True)
    tracker: str = setting(
        "",
        "package that the log goes to as well, '': none",
        one_of("", "trackio", "wandb"),
        resume=True,
    )
    project: str = setting("alr-layers", "project of that tracker", resume=True)


@dataclass(frozen=True)
class Config(Group):
    """Everything that determines a run; saved in its directory and in every checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig, metadata={"only": "damsm"})
    stream: StreamConfig = field(default_factory=StreamConfig, metadata={"only": "stream"})
    model: ModelConfig = field(default_factory=ModelConfig, metadata={"only": "train"})
    loss: LossConfig = field(default_factory=LossConfig)
    refine: RefineConfig = field(default_factory=RefineConfig, metadata={"only": "train"})
    optim: OptimConfig = field(default_factory=OptimConfig, metadata={"only": "train"})
    run: RunConfig = field(default_factory=RunConfig)


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
