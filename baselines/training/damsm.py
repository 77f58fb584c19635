"""The encoders' training step: word and sentence losses in both directions, one optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from baselines.config import Config
from baselines.data.loader import Batch
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.training.distributed import World, step_seed
from baselines.training.hardware import autocast, resolved_amp
from baselines.training.loop import Phase
from baselines.training.terms import Captions, PhaseLoss, Term, damsm_losses


class DAMSMObjective:
    """Both encoders under the word and sentence losses, one optimiser."""

    def __init__(
        self,
        config: Config,
        text: TextEncoder,
        image: ImageEncoder,
        epoch_images: int,
        world: World,
    ) -> None:
        self.config, self.world, self.epoch_images = config, world, epoch_images
        self.amp = resolved_amp(config.encoder.amp, world.device)
        self.text = text.to(world.device)
        self.image = image.to(world.device)
        self.networks: Mapping[str, nn.Module] = {"text": self.text, "image": self.image}
        trained = [p for p in self.image.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            [*self.text.parameters(), *trained], lr=config.encoder.lr, betas=(0.5, 0.999)
        )
        self.phases: Sequence[Phase] = [
            Phase(
                "DAMSM",
                self.optimizer,
                self.loss,
                clip=config.encoder.clip,
                clipped=list(self.text.parameters()),
            )
        ]

    def begin(self, batch: Batch, number: int, part: int = 0) -> Batch:
        """Set the mode, the step's dropout and the epoch's learning rate."""
        self.text.train()
        self.image.train()
        stream = self.world.rank + self.world.size * part
        torch.manual_seed(step_seed(self.config.run.seed, number, stream))
        seen = (number - 1) * self.config.encoder.batch_size * self.world.size
        decay = max(0.1, self.config.encoder.lr_decay ** (seen // self.epoch_images))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.encoder.lr * decay
        return batch

    def loss(self, batch: Batch) -> PhaseLoss:
        """Word and sentence losses in both directions, unweighted."""
        text = self.text(batch.captions, batch.lengths_cpu)
        with autocast(self.amp, self.world.device):
            features = self.image(batch.images)
        captions = Captions(text.sentence, text.words, batch.lengths, batch.class_ids)
        terms = damsm_losses(features, captions, self.config.loss, self.world)
        total = terms["damsm_words"] + terms["damsm_sentence"]
        return PhaseLoss(total, [Term(name, value, 1.0) for name, value in terms.items()])

    def after(self, number: int) -> None:
        """Nothing to average."""
