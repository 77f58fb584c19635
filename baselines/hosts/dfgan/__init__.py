"""DF-GAN: one generator at full size, the sentence in affine maps, a one-way critic with hinge."""

from baselines.hosts.dfgan.presets import PRESETS
from baselines.hosts.host import Host, deferred

HOST = Host(
    name="dfgan",
    summary="One stage at full size, the sentence in affine maps, hinge and gradient penalty.",
    presets=PRESETS,
    generator=deferred("baselines.hosts.dfgan.model:generator"),
    discriminators=deferred("baselines.hosts.dfgan.model:discriminators"),
    stages=deferred("baselines.hosts.dfgan.model:stages"),
    objective=deferred("baselines.hosts.dfgan.objective:DFGANObjective"),
    reads=("loss.wrong", "loss.penalty"),
    parameters=deferred("baselines.hosts.dfgan.sizes:parameters"),
    read_original=deferred("baselines.hosts.dfgan.original:read_original"),
    original_names=deferred("baselines.hosts.dfgan.original:original_names"),
    describe=deferred("baselines.hosts.dfgan.original:describe"),
    stages_of_generator="blocks",
    layers_of_discriminator="blocks",
    layouts=False,
    # No context of words enters the features, so nothing would tie an ALRModule to the image.
    layout_source="damsm",
)
