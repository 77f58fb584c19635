"""StackGAN++'s settings (the original's birds_3stages; no COCO setting was published)."""

from dataclasses import replace

from baselines import presets
from baselines.config import Config, LossConfig, ModelConfig, OptimConfig

MODEL = ModelConfig(
    name="stackgan", feature_dim=64, discriminator_dim=64, condition_dim=128, residual_blocks=2
)
# The adversarial terms, KL and nothing else: DAMSM is AttnGAN's.
LOSS = LossConfig(damsm=0.0, kl=2.0, unconditional=1.0, colour=0.0)

PRESETS: dict[str, Config] = {
    "cub": replace(
        presets.CUB,
        model=MODEL,
        loss=LOSS,
        optim=OptimConfig(batch_size=24, images=600 * presets.CUB_IMAGES),
    ),
    "scenes": replace(presets.SCENES, model=MODEL, loss=LOSS),
    "cub-small": replace(
        presets.CUB_SMALL, model=replace(presets.CUB_SMALL.model, name="stackgan"), loss=LOSS
    ),
    "demo": replace(presets.DEMO, model=replace(presets.DEMO.model, name="stackgan"), loss=LOSS),
}
