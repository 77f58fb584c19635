"""MirrorGAN: a gate on the condition beside word attention, a captioner in place of DAMSM."""

from baselines.hosts.host import STACKED_READS, Companion, Host, deferred
from baselines.hosts.mirrorgan.presets import PRESETS

CAPTIONER = Companion(
    option="captioner",
    command="baselines.stream",
    file="captioner.pt",
    needed=lambda config: config.loss.caption > 0,
    settings=deferred("baselines.hosts.mirrorgan.captioner_file:with_settings"),
    load=deferred("baselines.hosts.mirrorgan.captioner_file:load_captioner"),
    convert=deferred("baselines.hosts.mirrorgan.captioner_file:convert"),
    untrained=deferred("baselines.hosts.mirrorgan.captioner_file:save_untrained"),
)

HOST = Host(
    name="mirrorgan",
    summary="A gate on the condition beside word attention, a captioner in the place of DAMSM.",
    presets=PRESETS,
    generator=deferred("baselines.hosts.mirrorgan.model:generator"),
    discriminators=deferred("baselines.hosts.mirrorgan.model:discriminators"),
    stages=deferred("baselines.hosts.stacked:stacked_stages"),
    objective=deferred("baselines.hosts.mirrorgan.objective:MirrorGANObjective"),
    companion=CAPTIONER,
    reads=(*STACKED_READS, "loss.caption"),
    read_original=deferred("baselines.hosts.mirrorgan.original:read_original"),
    original_names=deferred("baselines.hosts.mirrorgan.original:original_names"),
    describe=deferred("baselines.hosts.mirrorgan.original:describe"),
)
