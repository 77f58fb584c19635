"""StackGAN++: three stages on the sentence alone, discriminators on the condition's mean."""

from baselines.hosts.host import Host, deferred
from baselines.hosts.stackgan.presets import PRESETS

HOST = Host(
    name="stackgan",
    summary="Three stages on the sentence alone, channels halved at each, wrong images for D.",
    presets=PRESETS,
    generator=deferred("baselines.hosts.stackgan.model:generator"),
    discriminators=deferred("baselines.hosts.stackgan.model:discriminators"),
    stages=deferred("baselines.hosts.stackgan.model:stages"),
    objective=deferred("baselines.hosts.stackgan.objective:StackGANObjective"),
    reads=(
        "loss.kl",
        "loss.unconditional",
        "loss.colour",
        "optim.legacy_snapshot",
        "optim.sync_batch_norm",
    ),
    parameters=deferred("baselines.hosts.stackgan.sizes:parameters"),
    read_original=deferred("baselines.hosts.stackgan.original:read_original"),
    original_names=deferred("baselines.hosts.stackgan.original:original_names"),
    describe=deferred("baselines.hosts.stackgan.original:describe"),
    layouts=False,
    # No context of words enters the features, so nothing would tie an ALRModule to the image.
    layout_source="damsm",
    wrong_images=True,
)
