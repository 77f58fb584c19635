"""AttnGAN: word attention in every refinement stage; AttnDCGAN without the smaller images."""

from baselines.hosts.attngan.presets import PRESETS
from baselines.hosts.host import Host, deferred

HOST = Host(
    name="attngan",
    summary="Word attention in every refinement stage; AttnDCGAN without the smaller images.",
    presets=PRESETS,
    generator=deferred("baselines.hosts.attngan.model:generator"),
    discriminators=deferred("baselines.hosts.attngan.model:discriminators"),
    stages=deferred("baselines.hosts.stacked:stacked_stages"),
    read_original=deferred("baselines.hosts.attngan.original:read_original"),
    original_names=deferred("baselines.hosts.attngan.original:original_names"),
    describe=deferred("baselines.hosts.attngan.original:describe"),
)
