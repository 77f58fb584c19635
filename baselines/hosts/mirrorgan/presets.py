"""MirrorGAN's settings: train_bird of its repository, which has no configuration for COCO.

Nothing is published for the captioner's pre-training but the tutorial that it follows: 5 epochs of
128 pairs. On drawn scenes and in the small presets its frozen trunk is that of DAMSM's image
encoder. From scratch the captioner learns the language and never looks at the image: `demo` after
20,000 pairs tells held-out captions at 1.273 nats a word, and at 1.273 beside other images; on the
trunk of encoders that had seen as many pairs at 0.962, and at 1.974 beside other images.
"""

from dataclasses import replace

from baselines import presets
from baselines.config import Config, LossConfig, ModelConfig, OptimConfig, StreamConfig

CUB_MODEL = ModelConfig(name="mirrorgan", feature_dim=32, discriminator_dim=64, residual_blocks=2)
SMALL_STREAM = StreamConfig(trunk="small", input_size=64, start="damsm", lr=3e-3)


def mirrored(loss: LossConfig) -> LossConfig:
    """No DAMSM in the generator's loss: the captioner takes its place."""
    return replace(loss, damsm=0.0, caption=10.0)


def small(base: Config, stream: StreamConfig) -> Config:
    """A preset of all hosts with this one's losses and a small captioner."""
    model = replace(base.model, name="mirrorgan")
    return replace(base, model=model, loss=mirrored(base.loss), stream=stream)


PRESETS: dict[str, Config] = {
    "cub": replace(
        presets.CUB,
        model=CUB_MODEL,
        loss=mirrored(presets.CUB.loss),
        stream=StreamConfig(images=5 * presets.CUB_IMAGES),
        optim=OptimConfig(batch_size=12, images=650 * presets.CUB_IMAGES),
    ),
    "scenes": replace(
        presets.SCENES,
        model=CUB_MODEL,
        loss=mirrored(presets.SCENES.loss),
        stream=replace(SMALL_STREAM, images=500_000),
    ),
    "cub-small": small(
        presets.CUB_SMALL,
        replace(
            SMALL_STREAM,
            input_size=32,
            embedding_dim=128,
            hidden_dim=256,
            batch_size=32,
            images=8 * presets.CUB_IMAGES,
        ),
    ),
    "demo": small(
        presets.DEMO,
        replace(
            SMALL_STREAM,
            input_size=32,
            embedding_dim=64,
            hidden_dim=128,
            batch_size=32,
            images=48_000,
        ),
    ),
}
