"""A run directory as training leaves it, untrained and small enough for seconds on a CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from baselines import runs
from baselines.config import (
    Config,
    DataConfig,
    EncoderConfig,
    ModelConfig,
    OptimConfig,
    load_config,
    save_config,
)
from baselines.data import Vocabulary
from baselines.data.scenes import Scenes
from baselines.hosts import build_generator
from baselines.networks.encoders import build_image_encoder, build_text_encoder
from baselines.networks.generator import StackedGenerator
from baselines.training.checkpoint import save_weights


def tiny_config(model: str = "attngan", **model_settings: object) -> Config:
    """16 and 32 px, a handful of channels, scenes of at most two objects."""
    settings = {"name": model, "feature_dim": 8, "discriminator_dim": 8, "condition_dim": 12}
    settings |= {"noise_dim": 10, "base_size": 16, "stages": 2, "residual_blocks": 1}
    return Config(
        data=DataConfig(max_words=18, max_objects=2, train_images=64, test_images=24),
        encoder=EncoderConfig(
            embedding_dim=32, token_dim=24, trunk="small", input_size=32, pretrained=False,
            train_trunk=True, batch_size=8, images=64,
        ),
        model=ModelConfig(**{**settings, **model_settings}),  # type: ignore[arg-type]
        optim=OptimConfig(batch_size=4, images=16),
    )  # fmt: skip


def _settle(generator: StackedGenerator, config: Config) -> None:
    """Let the batch norms see a few batches: with their first statistics all images are grey."""
    width, words = config.encoder.embedding_dim, config.data.max_words
    with torch.no_grad():
        for _ in range(20):
            noise = torch.randn(4, config.model.noise_dim)
            text = torch.randn(4, width), torch.randn(4, width, words)
            generator(noise, *text, torch.randint(1, words + 1, (4,)))
    generator.eval()


def make_tiny_run(path: Path, model: str = "attngan", **model_settings: object) -> Path:
    """Write an untrained run of `tiny_config` into `path` and return it; always the same one."""
    config = tiny_config(model, **model_settings)
    path.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary.build(Scenes.vocabulary_captions())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoders = runs.Encoders(
            build_text_encoder(config.encoder, len(vocabulary)),
            build_image_encoder(config.encoder),
            vocabulary,
            config.encoder,
        )
        generator = build_generator(config)
        _settle(generator, config)
    save_config(config, path / runs.CONFIG)
    vocabulary.save(path / runs.VOCABULARY)
    runs.save_encoders(encoders, path / runs.ENCODERS)
    for name in (runs.GENERATOR, runs.INITIAL):
        save_weights(generator, path / name)
    return path


def make_rival_run(first: Path, second: Path) -> Path:
    """Copy a run of `make_tiny_run`: same encoders, other images, one other setting."""
    shutil.copytree(first, second)
    generator = runs.load_run(second).generator
    with torch.no_grad():
        for parameter in generator.get_submodule("heads").parameters():
            parameter.mul_(3.0)
    save_weights(generator, second / runs.GENERATOR)
    config = load_config(second / runs.CONFIG)
    save_config(replace(config, loss=replace(config.loss, damsm=2.0)), second / runs.CONFIG)
    return second
