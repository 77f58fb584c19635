"""What a GAN's training step is: one draw, the discriminators' losses, the generator's (E13-E16).

`GANObjective` is what all hosts share; a host adds its losses by overriding two methods, and what
comes on top of any host (layout refinement) is handed over as `ExtraTerms`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from baselines import losses
from baselines.config import Config
from baselines.data.loader import Batch, pyramid
from baselines.networks.contracts import GeneratorInputs, GeneratorOutput, Text
from baselines.networks.discriminators import Discriminator
from baselines.networks.encoders import ImageEncoder, ImageFeatures, TextEncoder
from baselines.training.distributed import World, gather, step_seed
from baselines.training.hardware import autocast, resolved_amp
from baselines.training.loop import Phase
from baselines.training.terms import (
    CaptionBank,
    Captions,
    ExtraTerms,
    PhaseLoss,
    Term,
    damsm_losses,
    weighted_sum,
)


@dataclass
class Step:
    """What the phases of one training step share."""

    number: int
    real: tuple[Tensor, ...]  # the real images in every size of the generator, smallest first
    fake: GeneratorOutput
    inputs: GeneratorInputs
    captions: Captions
    mismatched: Tensor | str  # sentences that do not describe the images, or "shift"
    wrong: tuple[Tensor, ...] = ()  # images that the captions do not describe, as `real`
    batch: Batch | None = None  # as loaded, for losses that read the captions' words
    _image_features: ImageFeatures | None = None

    def image_features(self, encoder: ImageEncoder) -> ImageFeatures:
        """What the frozen image encoder sees in the last image; several terms look at it."""
        if self._image_features is None:
            self._image_features = encoder(self.fake.images[-1])
        return self._image_features


class AveragedNetwork:
    """Exponential moving average of a network's parameters and buffers.

    The decay rises from 0.1 to `decay` as (1 + n) / (10 + n), so that a short run is not held
    at its initial weights; the originals use the constant and leave buffers out.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, number: int) -> None:
        """Move towards `network` after step `number`."""
        weight = 1 - min(self.decay, (1 + number) / (10 + number))
        averages = self.network.state_dict()
        current = network.state_dict()
        floating = [name for name in averages if averages[name].is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating], [current[name] for name in floating], weight
        )
        for name in averages.keys() - set(floating):
            averages[name].copy_(current[name])


class GANObjective(ABC):
    """A text-to-image GAN: one draw per step, every discriminator, then the generator.

    Networks of the checkpoint: `generator`, `discriminators`, `average` (EMA), and those of the
    extra terms. The encoders are frozen and live in the run directory.

    A host overrides `discriminator_phases` and `host_terms`. Terms that go with any host come as
    `extra_terms`: they are handed the host's loss, join the generator's total, and their networks
    are trained by the generator's optimiser.
    """

    def __init__(
        self,
        config: Config,
        generator: nn.Module,
        discriminators: nn.ModuleList,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        world: World,
        *,
        extra_terms: Sequence[ExtraTerms] = (),
    ) -> None:
        self.config, self.world = config, world
        self.amp = resolved_amp(config.optim.amp, world.device)
        self.net = generator.to(world.device).train()
        self.discriminators = discriminators.to(world.device).train()
        self.text_encoder = text_encoder.to(world.device).eval().requires_grad_(False)
        self.image_encoder = image_encoder.to(world.device).eval().requires_grad_(False)
        self.average = AveragedNetwork(self.net, config.optim.ema)
        self.bank: CaptionBank | None = None
        self.extra_terms = tuple(extra_terms)
        self.networks: dict[str, nn.Module] = {
            "generator": self.net,
            "discriminators": self.discriminators,
            "average": self.average.network,
        }
        if config.loss.bank:
            bank = CaptionBank(config.loss.bank, config.encoder.embedding_dim)
            self.bank = self.networks["bank"] = bank.to(world.device)
        self.rng = torch.Generator(world.device)
        optimizer = self.adam(self.net, config.optim.g_lr)
        for extra in self.extra_terms:
            self.networks |= extra.networks
            trained = [p for network in extra.networks.values() for p in network.parameters()]
            if trained:
                optimizer.add_param_group({"params": trained})
        self.phases = [*self.discriminator_phases(), Phase("G", optimizer, self.generator_loss)]
        self.rates = [
            group["lr"] for phase in self.phases for group in phase.optimizer.param_groups
        ]

    @abstractmethod
    def discriminator_phases(self) -> list[Phase]:
        """The phases before the generator's, in order."""

    @abstractmethod
    def host_terms(self, step: Step) -> list[Term]:
        """The terms of the host's own generator loss, weights beside them."""

    def adam(self, module: nn.Module, lr: float) -> torch.optim.Adam:
        """An optimiser of the host's kind for `module`."""
        optim = self.config.optim
        return torch.optim.Adam(module.parameters(), lr=lr, betas=(optim.beta1, optim.beta2))

    def autocast(self) -> torch.autocast:
        """The arithmetic of `optim.amp`."""
        return autocast(self.amp, self.world.device)

    def begin(self, batch: Batch, number: int, part: int = 0) -> Step:
        """Encode the captions and draw the images that all phases of this step look at."""
        # Seeded by the step, so that a resumed run draws what an uninterrupted one would.
        self.rng.manual_seed(step_seed(self.config.run.seed, number, part))
        self._set_rates(number)
        with torch.no_grad():
            text = self.text_encoder(batch.captions, batch.lengths_cpu)
            mismatched = self.mismatched_sentences(text.sentence, batch.class_ids, number, part)
        inputs = GeneratorInputs(
            self.noise(len(batch), self.config.model.noise_dim),
            Text(text.words, batch.lengths, text.sentence),
            self.noise(len(batch), width) if (width := cast(int, self.net.condition_dim)) else None,
        )
        with self.autocast():
            fake = self.net(inputs.noise, text.sentence, text.words, batch.lengths, eps=inputs.eps)
        return Step(
            number=number,
            real=self.pyramid(batch.images),
            fake=fake,
            inputs=inputs,
            captions=Captions(text.sentence, text.words, batch.lengths, batch.class_ids),
            mismatched=mismatched,
            wrong=() if batch.wrong_images is None else self.pyramid(batch.wrong_images),
            batch=batch,
        )

    def pyramid(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, S, S) in every size of the generator, smallest first."""
        return pyramid(images, self.config.model.image_sizes)

    def _set_rates(self, number: int) -> None:
        """Let all learning rates fall to 2 % over the last `optim.decay` of the run, linearly."""
        optim = self.config.optim
        if not optim.decay:
            return
        images = (number - 1) * optim.batch_size * optim.accumulate * self.world.size
        left = max(0.0, 1 - images / optim.images)
        factor = max(0.02, min(1.0, left / optim.decay))
        groups = (group for phase in self.phases for group in phase.optimizer.param_groups)
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def noise(self, batch_size: int, width: int) -> Tensor:
        """Standard normal noise (B, width) from the objective's own random stream.

        Every rank draws the noise of the global batch and takes its rows, so that how many ranks
        share a batch does not change what its images are drawn from.
        """
        rank, size = self.world.rank, self.world.size
        shape = (batch_size * size, width)
        return torch.randn(shape, generator=self.rng, device=self.world.device)[rank::size]

    def mismatched_sentences(
        self, sentence: Tensor, class_ids: Tensor, number: int, part: int = 0
    ) -> Tensor | str:
        """For every image a sentence of another one, of another class wherever possible."""
        if self.config.loss.wrong == "shift":
            return "shift"
        everyone = gather(sentence, self.world)
        # Every rank must draw the same permutation of the gathered batch.
        common = torch.Generator(self.world.device)
        common.manual_seed(step_seed(self.config.run.seed, -number, part))
        order = losses.derangement(gather(class_ids, self.world), generator=common)
        return everyone[order[self.world.rank :: self.world.size]]

    def damsm_terms(self, step: Step) -> list[Term]:
        """How well the last image and its caption pick each other out; none at weight 0."""
        loss = self.config.loss
        if not loss.damsm:
            return []
        seen = step.image_features(self.image_encoder)
        matching = damsm_losses(seen, step.captions, loss, self.world, self.bank)
        return [Term(name, value, loss.damsm) for name, value in matching.items()]

    def generator_loss(self, step: Step) -> PhaseLoss:
        """E15: the host's terms, then the extra ones."""
        with self.autocast():
            waiting = [extra.before(step) for extra in self.extra_terms]
            terms = self.host_terms(step)
            total = host = weighted_sum(terms)
            added = [term for terms_beside in waiting for term in terms_beside(host)]
            for term in added:
                if term.weight is not None:
                    total = total + term.weight * term.value
        # A term held at a share of the gradient may be large in value: log the host's sum as well.
        return PhaseLoss(total, [Term("host", host, None, in_bar=True), *terms, *added])

    def real_layouts(self, images: Tensor, text: Text) -> tuple[Tensor, ...]:
        """Θ* of real images (B, 3, S, S) of the largest size; empty without layout refinement."""
        reduced = self.pyramid(images)
        return tuple(
            layout for extra in self.extra_terms for layout in extra.real_layouts(reduced, text)
        )

    def after(self, number: int) -> None:
        """Update the moving average."""
        self.average.update(self.net, number)


class StackedGANObjective(GANObjective):
    """A multi-stage GAN against one discriminator per stage, with DAMSM: AttnGAN's family."""

    def discriminator_phases(self) -> list[Phase]:
        """One per image size."""
        sizes = zip(self.config.model.image_sizes, self.discriminators, strict=True)
        return [
            Phase(
                f"D{size}",
                self.adam(network, self.config.optim.d_lr),
                partial(self.discriminator_loss, stage),
            )
            for stage, (size, network) in enumerate(sizes)
        ]

    def discriminator_loss(self, stage: int, step: Step) -> PhaseLoss:
        """E14 for one stage, on detached fakes."""
        with self.autocast():
            terms = losses.discriminator_terms(
                self._discriminator(stage),
                step.real[stage],
                step.fake.images[stage].detach(),
                step.captions.sentence,
                wrong=step.mismatched,
            )
        return judged(terms, f"D{self.config.model.image_sizes[stage]}")

    def _discriminator(self, stage: int) -> Discriminator:
        network = self.discriminators[stage]
        assert isinstance(network, Discriminator)
        return network

    def host_terms(self, step: Step) -> list[Term]:
        """Adversarial per stage, DAMSM on the last image, KL."""
        loss = self.config.loss
        terms = [
            Term(
                f"adversarial_{size}",
                losses.generator_loss(
                    self._discriminator(stage), step.fake.images[stage], step.captions.sentence
                ),
                1.0,
            )
            for stage, size in enumerate(self.config.model.image_sizes)
        ]
        kl = Term("kl", losses.kl_loss(step.fake.mu, step.fake.logvar), loss.kl)
        return [*terms, *self.damsm_terms(step), kl]


def judged(terms: dict[str, Tensor], phase: str) -> PhaseLoss:
    """A discriminator's "total" with its parts for the log, logits on a panel of their own."""
    return PhaseLoss(
        terms.pop("total"),
        [
            Term(name, value, None, f"{phase} logits" if name.startswith("logit_") else "")
            for name, value in terms.items()
        ],
    )
