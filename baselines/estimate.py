"""What a configuration takes, from its settings alone: parameters, memory, steps.

For `--dry-run`, and to refuse what no machine can hold before any of it is built. Parameters are
those that the host counts, or those of the stacked networks of AttnGAN's family, without DM-GAN's
memory, which is small beside them; what a pass keeps is always that of the stacked networks.
Nothing here needs torch.
"""

from __future__ import annotations

import reprlib
from typing import Any

from baselines.config import Config, ConfigError
from baselines.hosts import find_host
from baselines.hosts import stacked_sizes as sizes
from baselines.settings import replaced, settings

FLOAT = 4  # bytes
GIB = 2.0**30
# Weight, gradient and Adam's two moments; the generator's average is one more.
TRAINED, AVERAGED = 4, 5
# torch, its libraries and a process's own memory.
PROCESS = 0.95 * GIB
WORKER = 0.1 * GIB
LARGEST = 2**40  # larger settings count as this much, so that squares of them stay finite
VOCABULARY = 30_000
# Parameters, and floats kept per pixel of the input for its gradient.
TRUNKS = {
    "small": (0.6e6, 60.0),
    "inception_v3": (21.8e6, 330.0),
    "resnet152.tv_in1k": (58.1e6, 885.0),
}
OTHER_TRUNK = TRUNKS["inception_v3"]
# An estimate is only that: what is refused must miss by far.
MARGIN = 2.0


def bounded(config: Config) -> Config:
    """`config` with whole numbers of at most `LARGEST`."""
    for key, one in settings(Config).items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if one.kind is int and value > LARGEST:
            config = replaced(config, key, LARGEST)
    return config


def parameters(config: Config) -> dict[str, float]:
    """Trained parameters of the generator and of every discriminator ("D64"), about."""
    return (find_host(config.model.name).parameters or sizes.parameters)(config)


def generator_floats(config: Config) -> float:
    """Floats per image that the generator keeps for its gradient."""
    model, found = config.model, sizes.sides(config)
    g, doublings = float(model.feature_dim), sizes.halvings(model.base_size)
    total = 5 * 16 * g * 2.0**doublings
    for step in range(doublings):  # upsampled input, convolution and its norm, gate
        inner = g * 2.0 ** (doublings - step)
        total += 3.5 * inner * (8.0 * 2**step) ** 2
    stages = [side**2 * stage_floats(config) for side in found[:-1]]
    if config.optim.checkpoint_activations and stages:
        # One stage at a time is computed again, from its input.
        total += max(stages) + g * sum(side**2 for side in found[:-1])
    else:
        total += sum(stages)
    return total + 6 * sum(side**2 for side in found)


def stage_floats(config: Config) -> float:
    """Floats per pixel of its input that a refinement stage keeps: fusion, residuals, doubling."""
    model = config.model
    return 6.0 * config.data.max_words + model.feature_dim * (4 + 16.0 * model.residual_blocks + 28)


def discriminator_floats(config: Config, side: float) -> float:
    """Floats per image that the discriminator of `side` keeps: convolution, norm, activation."""
    grid, outputs, within = side, [], []
    channels = sizes.discriminator_channels(float(config.model.discriminator_dim), side)
    for layer, width in enumerate(channels):
        grid = max(4.0, grid / 2)
        outputs.append(width * grid**2)
        within.append((1 if layer == 0 else 2) * width * grid**2)
    # One layer at a time is computed again, from its input.
    inside = max(within) if config.optim.checkpoint_activations else sum(within)
    return sum(outputs) + inside + 3 * 16 * 8.0 * config.model.discriminator_dim + 3 * side**2


def damsm_floats(config: Config, batch: float, command: str) -> float:
    """Floats that DAMSM's losses keep of a batch: the image encoder, and all pairs of captions."""
    encoder, words = config.encoder, float(config.data.max_words)
    _, per_pixel = TRUNKS.get(encoder.trunk, OTHER_TRUNK)
    # Training G sends a gradient through the trunk to the image; a frozen trunk alone keeps none.
    kept = per_pixel if command == "train" or encoder.train_trunk else per_pixel / 10
    regions = 64.0 if encoder.trunk == "small" else 289.0
    pairs = batch * batch * words * (3 * regions + encoder.embedding_dim)
    codes = batch * (regions + words) * (encoder.embedding_dim + encoder.token_dim)
    return batch * kept * float(encoder.input_size) ** 2 + pairs + codes


def captioner_parameters(config: Config) -> float:
    """Parameters of MirrorGAN's captioner, about."""
    stream = config.stream
    trunk, _ = TRUNKS.get(stream.trunk, OTHER_TRUNK)
    width, hidden = float(stream.embedding_dim), float(stream.hidden_dim)
    return trunk + 2048 * width + (VOCABULARY + 4 * hidden) * (width + hidden)


def captioner_floats(config: Config, batch: float, command: str) -> float:
    """Floats that the captioner keeps of a batch: what it sees, and every word's choice."""
    stream = config.stream
    _, kept = TRUNKS.get(stream.trunk, OTHER_TRUNK)
    if command == "stream" and not stream.train_trunk:
        kept /= 10  # as for DAMSM: no gradient goes through a frozen trunk
    words = float(config.data.max_words) * (12.0 * stream.hidden_dim + 3.0 * VOCABULARY)
    return batch * (kept * float(stream.input_size) ** 2 + words)


def memory(config: Config, command: str) -> float:
    """Bytes that training by `command` ("train", "damsm" or "stream") takes, about."""
    config = bounded(config)
    encoder, words = config.encoder, float(config.data.max_words)
    text = (VOCABULARY + 4.0 * encoder.embedding_dim) * encoder.token_dim
    text += 4.0 * encoder.embedding_dim**2
    trunk, _ = TRUNKS.get(encoder.trunk, OTHER_TRUNK)
    encoders = text + trunk + 2048.0 * encoder.embedding_dim
    order = 2.0 * config.data.train_images if config.data.name == "scenes" else 0.0
    if command == "damsm":
        side, batch = float(encoder.input_size), float(encoder.batch_size)
        kept = TRAINED * encoders + damsm_floats(config, batch, command)
    elif command == "stream":
        side, batch = sizes.sides(config)[-1], float(config.stream.batch_size)
        kept = TRAINED * captioner_parameters(config) + captioner_floats(config, batch, command)
    else:
        side, batch = sizes.sides(config)[-1], float(config.optim.batch_size)
        kept = encoders + _training_floats(config, batch)
        if config.loss.caption:
            kept += captioner_parameters(config) + captioner_floats(config, batch, command)
    loaded = batch * (3 * side**2 + 2 * words) * (2 + 2.0 * config.data.workers)
    return PROCESS + WORKER * config.data.workers + FLOAT * (kept + loaded + order)


def _training_floats(config: Config, batch: float) -> float:
    model, words = config.model, float(config.data.max_words)
    counts = parameters(config)
    generator = counts.pop("generator")
    kept = AVERAGED * generator + TRAINED * sum(counts.values())
    images = sizes.sides(config)
    judged = images[-1:] if model.single_image else images
    per_image = generator_floats(config)
    for side in images[:-1] if config.refine.names else []:
        channels = max(float(model.feature_dim), words)
        kept += TRAINED * 2 * 14 * channels**2  # φ_α and φ_β
        per_image += side**2 * (24 * model.feature_dim + 12 * channels)
        if config.refine.decode == "stage":
            per_image += side**2 * (stage_floats(config) + 48 * model.feature_dim)
    # The generator's phase judges in all sizes at once; its graph outlives the discriminators'.
    per_image += sum(discriminator_floats(config, side) for side in judged)
    kept += batch * per_image + float(config.loss.bank) * config.encoder.embedding_dim
    return kept + (damsm_floats(config, batch, "train") if config.loss.damsm else 0.0)


def steps(config: Config, command: str, processes: int = 1) -> int:
    """Optimiser steps of the whole training by `command`."""
    images, batch = config.optim.images, config.optim.batch_size * config.optim.accumulate
    if command == "damsm":
        images, batch = config.encoder.images, config.encoder.batch_size
    elif command == "stream":
        images, batch = config.stream.images, config.stream.batch_size
    return -(-images // (batch * processes))


def require_memory(config: Config, command: str, available: float, where: str) -> None:
    """Refuse settings that need far more memory than there is.

    Args:
        config: the settings.
        command: "train", "damsm" or "stream".
        available: bytes in all.
        where: what has them, for the message.

    Raises:
        ConfigError: naming the setting that weighs most, the estimate and the remedy.
    """
    needed = memory(config, command)
    if needed <= MARGIN * available:
        return
    key, value = heaviest(config, command)
    raise ConfigError(
        f"{key}={reprlib.repr(value)}: training would take about {readable(needed)} of memory, "
        f"{where} has {readable(available)}; choose a smaller {key}"
    )


def heaviest(config: Config, command: str) -> tuple[str, int]:
    """The whole number whose default would save most memory, and its value."""
    weights: dict[str, float] = {}
    values = {}
    for key, one in settings(Config).items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if one.kind is int and one.only in ("", command, "damsm") and value > one.default:
            weights[key] = memory(replaced(config, key, one.default), command)
            values[key] = value
    key = min(weights, key=weights.__getitem__, default="optim.batch_size")
    return key, values.get(key, config.optim.batch_size)


def readable(size: float) -> str:
    """Bytes in GiB, with two digits or as a power of ten."""
    return f"{size / GIB:.1f} GiB" if size < 1e4 * GIB else f"{size / GIB:.0e} GiB"


def summary(config: Config, command: str) -> str:
    """For `--dry-run`: parameters by network, steps and memory, a line each."""
    lines = []
    if command == "train":
        counts = parameters(bounded(config)).items()
        own = find_host(config.model.name).parameters is not None
        whose = "" if own else " (of the stacked networks in these sizes)"
        named = ", ".join(f"{name} {count / 1e6:.3g} M" for name, count in counts)
        lines.append(f"parameters{whose}, about: {named}")
    lines.append(f"steps: {steps(config, command):,} on one process")
    lines.append(f"memory, about: {readable(memory(config, command))} without half precision")
    return "\n".join(lines)
