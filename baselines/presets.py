"""What the presets of all models share: the data set and its encoders. Sizes are the models'."""

from __future__ import annotations

from dataclasses import replace

from baselines.config import (
    Config,
    DataConfig,
    EncoderConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)

CUB_IMAGES, COCO_IMAGES = 8_855, 82_783  # training images, one epoch of the originals

# As in the originals' configuration files. Their DAMSM runs to epoch 200 on CUB and 100 on COCO.
CUB = Config(
    data=DataConfig(name="cub", max_words=18, captions_per_image=10, workers=4),
    encoder=EncoderConfig(images=200 * CUB_IMAGES),
    loss=LossConfig(damsm=5.0),
)
COCO = Config(
    data=DataConfig(name="coco", max_words=12, captions_per_image=5, workers=4),
    encoder=EncoderConfig(images=100 * COCO_IMAGES),
    loss=LossConfig(damsm=50.0),
)

# CUB at 8, 16 and 32 px with encoders trained from scratch: a first look without a GPU, by the
# demo's recipe at half of its learning rates.
CUB_SMALL = Config(
    data=DataConfig(name="cub", max_words=18, captions_per_image=10),
    encoder=EncoderConfig(
        embedding_dim=128,
        token_dim=128,
        dropout=0.3,
        trunk="small",
        input_size=32,
        pretrained=False,
        train_trunk=True,
        batch_size=32,
        images=8 * CUB_IMAGES,
    ),
    model=ModelConfig(
        feature_dim=24,
        discriminator_dim=16,
        condition_dim=64,
        noise_dim=32,
        base_size=8,
        stages=3,
        residual_blocks=1,
    ),
    loss=LossConfig(damsm=2.0, kl=0.1, bank=512),
    optim=OptimConfig(
        batch_size=16,
        images=8 * CUB_IMAGES,
        g_lr=2e-3,
        d_lr=1e-3,
        beta2=0.99,
        decay=0.3,
        amp="auto",
    ),
    run=RunConfig(log_every=50, grid_every=1_000, checkpoint_every=1_000),
)

# Scenes at 64, 128 and 256 px: a GPU's work. The encoders are small and trained from scratch.
SCENES = Config(
    data=DataConfig(name="scenes", max_words=18, workers=8),
    encoder=EncoderConfig(
        trunk="small", input_size=64, pretrained=False, train_trunk=True, images=1_500_000
    ),
    model=ModelConfig(),
    loss=LossConfig(damsm=5.0),
    optim=OptimConfig(images=2_000_000, amp="bf16"),
)

# One object, 8, 16 and 32 px: all of it within minutes on two CPU cores. What counts here, largest
# first: a first stage of 8 px, high learning rates, encoders that see the shapes (after 48,000
# images they tell them apart 72 times in 100, after 144,000 99 times), length, captions of earlier
# steps in the sentence loss, small batches with a short memory of squares, rates that fall at the
# end.
DEMO = Config(
    data=DataConfig(name="scenes", max_words=18, max_objects=1, test_images=500),
    encoder=EncoderConfig(
        embedding_dim=64,
        token_dim=64,
        dropout=0.2,
        trunk="small",
        input_size=32,
        pretrained=False,
        train_trunk=True,
        batch_size=32,
        images=136_000,
        amp="auto",
    ),
    model=ModelConfig(
        feature_dim=24,
        discriminator_dim=16,
        condition_dim=32,
        noise_dim=16,
        base_size=8,
        stages=3,
        residual_blocks=1,
    ),
    loss=LossConfig(damsm=2.0, kl=0.1, bank=512),
    optim=OptimConfig(
        batch_size=16, images=48_000, g_lr=4e-3, d_lr=2e-3, beta2=0.99, decay=0.3, amp="auto"
    ),
    run=RunConfig(log_every=50, grid_every=1_500, checkpoint_every=1_500),
)

# Two objects and how they lie to one another, with spectral norm in the discriminators: batch norm
# leaves out more objects (one run each: both objects of a relation drawn .80 against .94 of the
# time, stated objects in place .37 against .45).
DEMO2 = replace(
    DEMO,
    data=replace(DEMO.data, max_objects=2),
    encoder=replace(DEMO.encoder, images=192_000),
    model=replace(DEMO.model, discriminator_norm="spectral"),
    optim=replace(DEMO.optim, images=57_600),
)
