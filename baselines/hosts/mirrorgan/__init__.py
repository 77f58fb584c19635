"""MirrorGAN: a gate on the condition beside word attention, a captioner in place of DAMSM."""

from baselines.hosts.host import Host, deferred
from baselines.hosts.mirrorgan.presets import PRESETS

HOST = Host(
    name="mirrorgan",
    summary="A gate on the condition beside word attention, a captioner in the place of DAMSM.",
    presets=PRESETS,
    generator=deferred("baselines.hosts.mirrorgan.model:generator"),
    discriminators=deferred("baselines.hosts.mirrorgan.model:discriminators"),
    stages=deferred("baselines.hosts.stacked:stacked_stages"),
    read_original=deferred("baselines.hosts.mirrorgan.original:read_original"),
    original_names=deferred("baselines.hosts.mirrorgan.original:original_names"),
)
