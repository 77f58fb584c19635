"""StackGAN++'s losses: wrong images for the discriminators, colour consistency, KL, no DAMSM."""

from __future__ import annotations

import torch

from baselines import losses
from baselines.training.objective import StackedGANObjective, Step, judged
from baselines.training.terms import PhaseLoss, Term


class StackGANObjective(StackedGANObjective):
    """One discriminator per stage; their condition is the generator's mean mu.

    `loss.unconditional` weighs the unconditional heads everywhere, `loss.colour` the agreement of
    colours between neighbouring sizes. DAMSM's terms are an option, off in the presets.
    """

    def discriminator_loss(self, stage: int, step: Step) -> PhaseLoss:
        """One stage's six cross-entropies, on detached fakes and a detached mu."""
        with self.autocast():
            terms = losses.wrong_image_terms(
                self._discriminator(stage),
                step.real[stage],
                step.wrong[stage],
                step.fake.images[stage],
                step.fake.mu,
                unconditional=self.config.loss.unconditional,
            )
        return judged(terms, f"D{self.config.model.image_sizes[stage]}")

    def host_terms(self, step: Step) -> list[Term]:
        """Adversarial per stage, where mu is not detached; colours; KL."""
        loss, images, sizes = self.config.loss, step.fake.images, self.config.model.image_sizes
        terms = [
            Term(
                f"adversarial_{size}",
                losses.generator_loss(
                    self._discriminator(stage),
                    images[stage],
                    step.fake.mu,
                    unconditional=loss.unconditional,
                ),
                1.0,
            )
            for stage, size in enumerate(sizes)
        ]
        if loss.colour:
            terms += [
                Term(
                    f"colour_{sizes[stage]}",
                    losses.colour_consistency_loss(images[stage], images[stage - 1]),
                    loss.colour,
                )
                for stage in reversed(range(1, len(images)))
            ]
        kl = Term("kl", losses.kl_loss(step.fake.mu, step.fake.logvar), loss.kl)
        return [*terms, *self.damsm_terms(step), kl]

    @torch.no_grad()
    def after(self, number: int) -> None:
        """Update the average; where `optim.legacy_snapshot` is due, go on from it.

        The original loads the average into the generator whenever it writes a snapshot, every
        2,000 steps, and keeps Adam's moments.
        """
        super().after(number)
        every = self.config.optim.legacy_snapshot
        if every and number % every == 0:
            averages = self.average.network.parameters()
            for live, average in zip(self.net.parameters(), averages, strict=True):
                live.copy_(average)
