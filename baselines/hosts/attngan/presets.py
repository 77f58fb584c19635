"""AttnGAN's settings (its `bird_attn2.yml`, `coco_attn2.yml` and `bird_attnDCGAN2.yml`)."""

from dataclasses import replace

from baselines import presets
from baselines.config import Config, ModelConfig, OptimConfig

CUB_MODEL = ModelConfig(name="attngan", feature_dim=32, discriminator_dim=64, residual_blocks=2)
COCO_MODEL = ModelConfig(name="attngan", feature_dim=48, discriminator_dim=96, residual_blocks=3)

PRESETS: dict[str, Config] = {
    "cub": replace(
        presets.CUB,
        model=CUB_MODEL,
        optim=OptimConfig(batch_size=20, images=600 * presets.CUB_IMAGES),
    ),
    "coco": replace(
        presets.COCO,
        model=COCO_MODEL,
        optim=OptimConfig(batch_size=14, images=120 * presets.COCO_IMAGES),
    ),
    "cub-dcgan": replace(
        presets.CUB,
        model=replace(CUB_MODEL, residual_blocks=0, single_image=True),
        loss=replace(presets.CUB.loss, damsm=1.0),
        optim=OptimConfig(batch_size=30, images=400 * presets.CUB_IMAGES),
    ),
    "scenes": replace(presets.SCENES, model=CUB_MODEL),
    "cub-small": replace(presets.CUB_SMALL, model=replace(presets.CUB_SMALL.model, name="attngan")),
    "demo": replace(presets.DEMO, model=replace(presets.DEMO.model, name="attngan")),
    "demo2": replace(presets.DEMO2, model=replace(presets.DEMO2.model, name="attngan")),
}

# The control for everything added to the generator's loss: spectral norm in the place of batch
# norm in the discriminators and nothing else, which alone is known to gain much on COCO.
SPECTRAL = ("cub", "coco", "scenes", "cub-small", "demo")
PRESETS |= {
    f"{name}-sn": replace(
        PRESETS[name], model=replace(PRESETS[name].model, discriminator_norm="spectral")
    )
    for name in SPECTRAL
}
