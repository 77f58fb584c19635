"""DM-GAN's settings (its `bird_DMGAN.yml` and `coco_DMGAN.yml`)."""

from dataclasses import replace

from baselines import presets
from baselines.config import Config, ModelConfig, OptimConfig

CUB_MODEL = ModelConfig(name="dmgan", feature_dim=64, discriminator_dim=32, residual_blocks=2)

PRESETS: dict[str, Config] = {
    "cub": replace(
        presets.CUB,
        model=CUB_MODEL,
        optim=OptimConfig(batch_size=10, images=800 * presets.CUB_IMAGES),
    ),
    "coco": replace(
        presets.COCO,
        model=replace(CUB_MODEL, residual_blocks=3),
        optim=OptimConfig(batch_size=16, images=200 * presets.COCO_IMAGES),
    ),
    "scenes": replace(presets.SCENES, model=CUB_MODEL),
    "cub-small": replace(presets.CUB_SMALL, model=replace(presets.CUB_SMALL.model, name="dmgan")),
    "demo": replace(presets.DEMO, model=replace(presets.DEMO.model, name="dmgan")),
    "demo2": replace(presets.DEMO2, model=replace(presets.DEMO2.model, name="dmgan")),
}
