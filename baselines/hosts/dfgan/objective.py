"""DF-GAN's losses: hinges with mismatched pairs, the gradient penalty, one step of each network."""

from __future__ import annotations

from torch import Tensor

from baselines import losses
from baselines.hosts.dfgan.discriminator import DFGANDiscriminator
from baselines.precision import accurate, no_autocast
from baselines.training.loop import Phase
from baselines.training.objective import GANObjective, Step, judged
from baselines.training.terms import PhaseLoss, Term


class DFGANObjective(GANObjective):
    """One discriminator with its head, one optimiser for both, then the generator.

    Real images are judged in float32 whatever `optim.amp` says, because the gradient penalty, a
    sixth power, differentiates that judgement. DAMSM's terms are an option, off in the presets.
    """

    def discriminator_phases(self) -> list[Phase]:
        """One, over the discriminator's weights and then its head's."""
        optimizer = self.adam(self.discriminators, self.config.optim.d_lr)
        return [Phase("D", optimizer, self.discriminator_loss)]

    @property
    def critic(self) -> DFGANDiscriminator:
        """The one discriminator."""
        (network,) = self.discriminators
        assert isinstance(network, DFGANDiscriminator)
        return network

    def judge(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Logits (B,) of features (B, 8n, 4, 4) with sentences (B, E)."""
        head = self.critic.conditional
        assert head is not None
        return head(features, sentence)

    def discriminator_loss(self, step: Step) -> PhaseLoss:
        """Hinges of real, drawn and mismatched pairs, plus the penalty on real pairs."""
        weight = self.config.loss.penalty
        # Leaves of this phase: what the generator's terms do with image and sentence stays apart.
        images = step.real[-1].detach().requires_grad_()
        sentence = step.captions.sentence.detach().requires_grad_()
        with no_autocast(images):
            features = self.critic(images)
            real = self.judge(features, sentence)
            wrong = self._mismatched(features, sentence, step)
            penalty = (
                losses.matching_aware_gradient_penalty(real, images, sentence, weight=weight)
                if weight
                else real.new_zeros(())
            )
        with self.autocast():
            fake = self.judge(self.critic(step.fake.images[-1].detach()), sentence)
        terms = losses.hinge_terms(real, fake, wrong)
        terms["total"] = terms["total"] + penalty
        return judged({**terms, "penalty": penalty}, "D")

    def _mismatched(self, features: Tensor, sentence: Tensor, step: Step) -> Tensor:
        """Logits of real images with other captions; no image is looked at twice.

        The original gives every sentence the next image of the batch, whatever its class.
        """
        if isinstance(step.mismatched, Tensor):
            return self.judge(features, step.mismatched)
        return self.judge(features.roll(-1, dims=0), sentence)

    def host_terms(self, step: Step) -> list[Term]:
        """The mean logit of the drawn images with their sentences, negative."""
        logits = self.judge(self.critic(step.fake.images[-1]), step.captions.sentence)
        (logits,) = accurate(logits)
        return [Term("adversarial", -logits.mean(), 1.0), *self.damsm_terms(step)]
