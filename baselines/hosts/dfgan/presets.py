"""DF-GAN's settings (the original's bird and coco), without averaging in those two, as there.

The published truncation of the noise, 0.88, is an option of sampling.
"""

from dataclasses import replace

from baselines import presets
from baselines.config import Config, LossConfig, ModelConfig, OptimConfig

MODEL = ModelConfig(
    name="dfgan", feature_dim=32, discriminator_dim=32, noise_dim=100, base_size=256, stages=1
)
# The adversarial terms and the penalty: no DAMSM, and no conditioning augmentation to regularise.
LOSS = LossConfig(damsm=0.0, kl=0.0, penalty=2.0)


def _optim(shared: OptimConfig, scale: float = 1.0) -> OptimConfig:
    """`shared` with the published learning rates times `scale`, and the published momenta."""
    return replace(shared, g_lr=scale * 1e-4, d_lr=scale * 4e-4, beta1=0.0, beta2=0.9)


def _small(shared: Config, scale: float) -> Config:
    """32 px; `scale`: of the published learning rates, for the short runs of small presets."""
    model = replace(
        MODEL, feature_dim=16, discriminator_dim=16, noise_dim=shared.model.noise_dim, base_size=32
    )
    return replace(shared, model=model, loss=LOSS, optim=_optim(shared.optim, scale))


PRESETS: dict[str, Config] = {
    "cub": replace(
        presets.CUB,
        model=MODEL,
        loss=LOSS,
        optim=_optim(OptimConfig(batch_size=32, images=1300 * presets.CUB_IMAGES, ema=0.0)),
    ),
    "coco": replace(
        presets.COCO,
        data=replace(presets.COCO.data, max_words=18),
        model=MODEL,
        loss=LOSS,
        optim=_optim(OptimConfig(batch_size=32, images=300 * presets.COCO_IMAGES, ema=0.0)),
    ),
    "scenes": replace(
        presets.SCENES,
        model=MODEL,
        loss=LOSS,
        optim=_optim(replace(presets.SCENES.optim, batch_size=32)),
    ),
    "cub-small": _small(presets.CUB_SMALL, 4.0),
    "demo": _small(presets.DEMO, 4.0),
}
