"""DM-GAN: a dynamic memory of words in every refinement stage, spectral norm in D."""

from baselines.hosts.dmgan.presets import PRESETS
from baselines.hosts.host import Host, deferred

HOST = Host(
    name="dmgan",
    summary="A dynamic memory of words in every refinement stage, spectral norm in D.",
    presets=PRESETS,
    generator=deferred("baselines.hosts.dmgan.model:generator"),
    discriminators=deferred("baselines.hosts.dmgan.model:discriminators"),
    stages=deferred("baselines.hosts.stacked:stacked_stages"),
    read_original=deferred("baselines.hosts.dmgan.original:read_original"),
    original_names=deferred("baselines.hosts.dmgan.original:original_names"),
    describe=deferred("baselines.hosts.dmgan.original:describe"),
)
