"""MirrorGAN's training steps: the GAN's with the captioner's loss, and the captioner's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines import losses
from baselines.config import Config
from baselines.data.loader import Batch
from baselines.hosts.mirrorgan.captioner import Captioner
from baselines.training.distributed import World, gather
from baselines.training.loop import Phase
from baselines.training.objective import StackedGANObjective, Step
from baselines.training.terms import PhaseLoss, Term


class MirrorGANObjective(StackedGANObjective):
    """Adversarial per stage, KL, and what a frozen captioner makes of the last image.

    DAMSM is left out of the generator's loss by the presets (`loss.damsm=0`). The captioner is in
    evaluation mode; gradient flows through it into the image.
    """

    def __init__(self, *args: Any, captioner: Captioner | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if captioner is None and self.config.loss.caption:
            raise ValueError(f"loss.caption={self.config.loss.caption} needs a captioner")
        self.captioner = captioner
        if captioner is not None:
            captioner.to(self.world.device).eval().requires_grad_(False)

    def host_terms(self, step: Step) -> list[Term]:
        """Those of AttnGAN's family, then the captioner's."""
        terms = super().host_terms(step)
        if self.captioner is None:
            return terms
        assert step.batch is not None
        value = global_caption_loss(self.captioner, step.fake.images[-1], step.batch, self.world)
        return [*terms, Term("caption", value, self.config.loss.caption)]


class StreamObjective:
    """The captioner under its loss; a frozen trunk stays as it is."""

    def __init__(self, config: Config, captioner: Captioner, world: World) -> None:
        self.world = world
        self.captioner = captioner.to(world.device)
        self.networks: Mapping[str, nn.Module] = {"captioner": self.captioner}
        trained = [p for p in self.captioner.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=config.stream.lr)
        self.phases: Sequence[Phase] = [Phase("STREAM", optimizer, self.loss)]

    def begin(self, batch: Batch, number: int, part: int = 0) -> Batch:
        """Set the mode: a validation may have been in between."""
        self.captioner.train()
        return batch

    def loss(self, batch: Batch) -> PhaseLoss:
        """The caption loss on real images."""
        value = global_caption_loss(self.captioner, batch.images, batch, self.world)
        return PhaseLoss(value, [Term("caption", value, 1.0)])

    def after(self, number: int) -> None:
        """Nothing to average."""


def global_caption_loss(captioner: Captioner, images: Tensor, batch: Batch, world: World) -> Tensor:
    """The caption loss of `images` under the batch's captions, for averaging over the ranks.

    The mean over the ranks, and so the averaged gradient, is that over all words of all ranks,
    although their batches have different numbers of words.
    """
    loss = losses.caption_loss(*captioner(images, batch.captions, batch.lengths_cpu))
    if world.size == 1:
        return loss
    words = batch.lengths.sum()
    return loss * (words * world.size / gather(batch.lengths, world).sum())
