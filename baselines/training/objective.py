"""The D and G steps that AttnGAN, DM-GAN and ALR-GAN share (E13-E16; baselines_spec 6 and 8.2)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from baselines import losses
from baselines.config import Config
from baselines.data.loader import Batch, pyramid
from baselines.networks.discriminators import Discriminator
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import GeneratorOutput, StackedGenerator
from baselines.training.distributed import World, gather, step_seed
from baselines.training.loop import Phase
from baselines.training.terms import Captions, damsm_terms


@dataclass
class Step:
    """What the phases of one training step share."""

    number: int
    real: tuple[Tensor, ...]  # the real images of every stage, smallest first
    fake: GeneratorOutput
    captions: Captions
    mismatched: Tensor | str  # sentences that do not describe the images, or "shift"


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


class StackedGANObjective:
    """A multi-stage text-to-image GAN against one discriminator per stage.

    Networks of the checkpoint: `generator`, `discriminators`, `average` (EMA). The encoders
    are frozen and live in the run directory. A subclass adds terms to the generator's loss by
    overriding `generator_terms`.
    """

    def __init__(
        self,
        config: Config,
        generator: StackedGenerator,
        discriminators: nn.ModuleList,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        world: World,
    ) -> None:
        self.config, self.world = config, world
        self.net = generator.to(world.device).train()
        self.discriminators = discriminators.to(world.device).train()
        self.text_encoder = text_encoder.to(world.device).eval().requires_grad_(False)
        self.image_encoder = image_encoder.to(world.device).eval().requires_grad_(False)
        self.average = AveragedNetwork(self.net, config.optim.ema)
        self.networks: dict[str, nn.Module] = {
            "generator": self.net,
            "discriminators": self.discriminators,
            "average": self.average.network,
        }
        self.generator = torch.Generator(world.device)
        discriminator_phases = [
            Phase(
                f"D{size}",
                self._adam(network, config.optim.d_lr),
                partial(self.discriminator_terms, stage),
            )
            for stage, (size, network) in enumerate(
                zip(config.model.image_sizes, self.discriminators, strict=True)
            )
        ]
        generator_phase = Phase("G", self._adam(self.net, config.optim.g_lr), self.generator_loss)
        self.phases = [*discriminator_phases, generator_phase]

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Adam:
        optim = self.config.optim
        return torch.optim.Adam(module.parameters(), lr=lr, betas=(optim.beta1, optim.beta2))

    def autocast(self) -> torch.autocast:
        """The arithmetic of `optim.amp`."""
        amp = self.config.optim.amp
        dtype = torch.float16 if amp == "fp16" else torch.bfloat16
        return torch.autocast(self.world.device.type, dtype, enabled=amp != "no")

    def begin(self, batch: Batch, number: int, part: int = 0) -> Step:
        """Encode the captions and draw the images that all phases of this step look at."""
        # Seeded by the step, so that a resumed run draws what an uninterrupted one would.
        self.generator.manual_seed(step_seed(self.config.run.seed, number, part))
        with torch.no_grad():
            text = self.text_encoder(batch.captions, batch.lengths_cpu)
            mismatched = self.mismatched_sentences(text.sentence, batch.class_ids, number, part)
        with self.autocast():
            fake = self.net(
                self.noise(len(batch.captions)),
                text.sentence,
                text.words,
                batch.lengths,
                eps=self.noise(len(batch.captions), self.config.model.condition_dim),
            )
        return Step(
            number=number,
            real=pyramid(batch.images, self.config.model.image_sizes),
            fake=fake,
            captions=Captions(text.sentence, text.words, batch.lengths, batch.class_ids),
            mismatched=mismatched,
        )

    def noise(self, batch_size: int, width: int | None = None) -> Tensor:
        """Standard normal noise (B, width) from the objective's own generator.

        Every rank draws the noise of the global batch and takes its rows, so that how many ranks
        share a batch does not change what its images are drawn from.
        """
        rank, size = self.world.rank, self.world.size
        shape = (batch_size * size, self.config.model.noise_dim if width is None else width)
        return torch.randn(shape, generator=self.generator, device=self.world.device)[rank::size]

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

    def discriminator_terms(self, stage: int, step: Step) -> dict[str, Tensor]:
        """E14 for one stage, on detached fakes."""
        with self.autocast():
            return losses.discriminator_terms(
                self._discriminator(stage),
                step.real[stage],
                step.fake.images[stage].detach(),
                step.captions.sentence,
                wrong=step.mismatched,
            )

    def _discriminator(self, stage: int) -> Discriminator:
        network = self.discriminators[stage]
        assert isinstance(network, Discriminator)
        return network

    def generator_loss(self, step: Step) -> dict[str, Tensor]:
        """E15: the host's terms, then whatever `generator_terms` adds."""
        with self.autocast():
            terms = self.host_terms(step)
            weights = {"damsm_words": self.config.loss.damsm, "kl": self.config.loss.kl}
            weights["damsm_sentence"] = self.config.loss.damsm
            host = torch.stack(
                [weights.get(name, 1.0) * term for name, term in terms.items()]
            ).sum()
            total, added = self.generator_terms(step, host)
        # A term held at a share of the gradient may be large in value: log the host's sum as well.
        return {"total": total, "host": host, **terms, **added}

    def host_terms(self, step: Step) -> dict[str, Tensor]:
        """The unweighted terms of the host: adversarial per stage, DAMSM on the last image, KL."""
        terms = {
            f"adversarial_{size}": losses.generator_loss(
                self._discriminator(stage), step.fake.images[stage], step.captions.sentence
            )
            for stage, size in enumerate(self.config.model.image_sizes)
        }
        if self.config.loss.damsm:
            terms |= damsm_terms(
                self.image_encoder,
                step.fake.images[-1],
                step.captions,
                self.config.loss,
                self.world,
            )
        terms["kl"] = losses.kl_loss(step.fake.mu, step.fake.logvar)
        return terms

    def generator_terms(self, step: Step, host: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss of the generator and further values for the log; the host's alone here."""
        return host, {}

    def after(self, number: int) -> None:
        """Update the moving average."""
        self.average.update(self.net, number)
