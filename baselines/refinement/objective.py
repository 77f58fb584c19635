"""What ALR adds to a host's generator loss: ALR, reconstruction and LVR terms (E15)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alr_layers import ALRLoss, LayoutEncoder, LayoutRefinement, LVRLoss
from baselines.config import Config
from baselines.networks.generator import StackedGenerator
from baselines.refinement.balance import TermBalance, ramped_weight
from baselines.training.distributed import step_seed
from baselines.training.objective import StackedGANObjective, Step


class RefinedObjective(StackedGANObjective):
    """Any host with layout refinement in all stages but the first.

    Adds to the checkpoint `refinements` (E, φ_α and φ_β of every refined stage; the generator
    itself gains nothing) and `balance` (the scales that keep terms at their gradient share).
    With all weights zero the host's training is unchanged to the bit: the refinement draws its
    initial weights from its own random stream and is not even evaluated.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.terms = {"alr": self.config.refine.alr}
        self.terms["reconstruction"] = self.config.refine.reconstruction
        if "lvr" in self.config.refine.terms:
            self.terms["lvr"] = self.config.refine.lvr
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(self.config.run.seed, 0, 0))
            self.refinements = nn.ModuleList(
                build_refinement(self.config, self.net, stage)
                for stage in range(1, self.config.model.stages)
            ).to(self.world.device)
        self.balance = TermBalance(
            {name: term.share for name, term in self.terms.items()},
            len(self.refinements),
            self.world,
        ).to(self.world.device)
        self.networks |= {"refinements": self.refinements, "balance": self.balance}
        self.phases[-1].optimizer.add_param_group({"params": list(self.refinements.parameters())})

    def generator_terms(self, step: Step, host: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the weighted terms of every refined stage to the host's loss.

        Logged per stage i, unweighted: `stage{i}/easy`, `hard` and `order` (ALR),
        `reconstruction`, `perception` and `style` (LVR), `feature_ratio` = ‖h*‖ / ‖h‖; and where
        measured, the gradient norms of the host and of each term at the stage's features.
        """
        weights = {name: ramped_weight(term, step.number) for name, term in self.terms.items()}
        if not any(weights.values()):
            return host, {}
        total, log = host, {}
        starting = any(step.number == term.start + 1 for term in self.terms.values())
        logging = step.number % self.config.run.log_every == 0
        measuring = starting or logging or self.balance.due(step.number)
        for stage, refinement in enumerate(self.refinements, start=1):
            details, ratio = self.stage_terms(refinement, stage, step)
            terms = LayoutRefinement.total(details)
            if measuring:
                norms = self.balance.measure(
                    stage - 1,
                    host,
                    terms,
                    step.fake.features[stage - 1],
                    {"reconstruction": self.decoder_weight(stage)},
                )
                log |= {f"stage{stage}_gradients/{name}": norm for name, norm in norms.items()}
            for name, term in terms.items():
                total = total + weights[name] * self.balance.scale(name, stage - 1) * term
            log |= {f"stage{stage}/{name}": value for name, value in details.items()}
            log[f"stage{stage}/feature_ratio"] = ratio
        return total, log

    def stage_terms(
        self, refinement: LayoutRefinement, stage: int, step: Step
    ) -> tuple[dict[str, Tensor], Tensor]:
        """All unweighted sub-terms of one stage, and ‖h*‖ / ‖h‖."""
        features, layout = step.fake.features[stage - 1], step.fake.layouts[stage - 1]
        images = self.real_images(step.real, stage)
        words, lengths = step.captions.words, step.captions.lengths
        with frozen_statistics(self.net):
            real = refinement.real_branch(images, words, lengths)
            details = refinement.terms(features, layout, images, words, lengths, real=real)
        return details, (real[0].float().norm() / features.float().norm()).detach()

    def real_images(self, pyramid: tuple[Tensor, ...], stage: int) -> Tensor:
        """The real images that E of `stage` reads: of its input's size, or of its output's."""
        return pyramid[stage if self.config.refine.decode == "stage" else stage - 1]

    def decoder_weight(self, stage: int) -> Tensor:
        """The image head that decodes h*: the weight at which L_REC meets the host's loss."""
        head = self.net.heads[stage if self.config.refine.decode == "stage" else stage - 1]
        return next(head.parameters())


def build_refinement(config: Config, generator: StackedGenerator, stage: int) -> LayoutRefinement:
    """The refinement of `stage` (1 for the first refined one) on the generator's own layers."""
    refine = config.refine
    fusion = generator.stages[stage - 1].fusion

    def decode_head(features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        return generator.heads[stage - 1](features)

    def decode_stage(features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        return generator.heads[stage](generator.stages[stage - 1](features, words, lengths)[0])

    by_stage = refine.decode == "stage"
    return LayoutRefinement(
        fusion,
        decode=decode_stage if by_stage else decode_head,
        use_lvr="lvr" in refine.terms,
        alr=ALRLoss(
            config.model.feature_dim,
            max_words=max(config.model.feature_dim, config.data.max_words),
            gamma=refine.gamma,
            normalization=refine.normalization,
            detach_target=refine.detach_target,
        ),
        lvr=LVRLoss(
            mask=refine.mask,
            normalization=refine.normalization,
            detach_target=refine.detach_target,
        ),
        encoder=LayoutEncoder(config.model.feature_dim, downsample=2 if by_stage else 1),
    )


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by the batch without updating their running statistics.

    Real features pass through the generator's stages in training only; inference would otherwise
    use a mixture of the statistics of real and synthesized features.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
