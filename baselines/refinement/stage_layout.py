"""The paper's refinement: Θ and Θ* from the features of the host's own stages (E4-E12, E15)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from alr_layers import ALRModule, LayoutEncoder, LayoutRefinement
from baselines.config import Config
from baselines.networks.contracts import Fusion, GeneratorInputs, RefinableStage, Text
from baselines.refinement.losses import alr_loss, lvr_loss, term_balance
from baselines.training.distributed import World, step_seed
from baselines.training.objective import Step
from baselines.training.terms import ExtraTerms, Term


@dataclass(frozen=True)
class FusionLayout:
    """A host's fusion as `alr_layers.LayoutSource`; its layout depends on words and lengths."""

    fusion: Fusion

    @property
    def feature_dim(self) -> int:
        """D of the features the fusion reads."""
        return self.fusion.feature_dim

    def layout(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, D, H, W), (B, E, T), (B,) -> Θ (B, T, H, W)."""
        no_sentence = words.new_zeros(len(words), 0)
        return self.fusion.layout(features, Text(words, lengths, no_sentence))


@dataclass(frozen=True)
class Decoder:
    """A stage's way back from h* to pixels, as `LayoutRefinement` calls it."""

    stage: RefinableStage

    def __call__(
        self, features: Tensor, words: Tensor, lengths: Tensor, inputs: GeneratorInputs
    ) -> Tensor:
        """(B, D, H, W) -> (B, 3, S, S); words and lengths are those of `inputs`."""
        return self.stage.decode(features, inputs)


class StageLayoutTerms(ExtraTerms):
    """ALR, reconstruction and LVR terms of every refinable stage.

    Adds to the checkpoint `refinements` (E, φ_α and φ_β of every stage; the generator itself gains
    nothing), `layout_modules` (for hosts without a layout of their own, the `ALRModule`s that give
    one in training) and `balance` (the scales that keep terms at their gradient share). With all
    weights zero the host's training is unchanged to the bit: initial weights come from a random
    stream of their own, and nothing of it is evaluated.
    """

    def __init__(self, config: Config, stages: Sequence[RefinableStage], world: World) -> None:
        self.config, self.stages = config, tuple(stages)
        self.names = ["alr", "reconstruction", *(["lvr"] if "lvr" in config.refine.names else [])]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(config.run.seed, 0, 0))
            self.layout_modules = nn.ModuleDict(
                {
                    stage.name: ALRModule(stage.feature_dim, config.encoder.embedding_dim)
                    for stage in self.stages
                    if stage.source is None
                }
            ).to(world.device)
            self.refinements = nn.ModuleList(map(self._refinement, self.stages)).to(world.device)
        self.balance = term_balance(config.refine, self.names).to(world.device)
        self.networks = {"refinements": self.refinements, "balance": self.balance}
        if len(self.layout_modules):
            self.networks["layout_modules"] = self.layout_modules

    def _refinement(self, stage: RefinableStage) -> LayoutRefinement:
        source = stage.source
        return LayoutRefinement(
            self._module(stage) if source is None else FusionLayout(source),
            decode=Decoder(stage),
            use_lvr="lvr" in self.names,
            alr=alr_loss(self.config, stage.feature_dim),
            lvr=lvr_loss(self.config),
            encoder=LayoutEncoder(stage.feature_dim, downsample=stage.downsample),
            host=stage.host,
        )

    def _module(self, stage: RefinableStage) -> ALRModule:
        """What gives the layout of a stage without one of its own."""
        return cast(ALRModule, self.layout_modules[stage.name])

    def _refined(self) -> Iterator[tuple[RefinableStage, LayoutRefinement]]:
        for stage, refinement in zip(self.stages, self.refinements, strict=True):
            yield stage, cast(LayoutRefinement, refinement)

    def terms(self, step: Step, host: Tensor) -> list[Term]:
        """The weighted terms of every stage, and what is logged of them.

        Logged per stage, unweighted: `easy`, `hard`, `order` (ALR), `reconstruction`, `perception`
        and `style` (LVR), `feature_ratio` = ‖h*‖ / ‖h‖; where `run.log_every` is due, the gradient
        norms of the host and of each term.
        """
        number = step.number - 1  # the balance counts from 0
        if not any(self.balance.weight(name, number) for name in self.names):
            return []
        details, totals, features = [], [], []
        log: list[Term] = []
        for stage, refinement in self._refined():
            h, parts, ratio = self._stage_terms(stage, refinement, step)
            features.append(h)
            details.append(parts)
            totals.append(LayoutRefinement.total(parts))
            log += [
                Term(f"{stage.name}/{name}", value, None, stage.name)
                for name, value in parts.items()
                if name not in totals[-1]
            ]
            log.append(Term(f"{stage.name}/feature_ratio", ratio, None, f"{stage.name} scale"))
        anchors = [{"reconstruction": stage.anchor} for stage in self.stages]
        if step.number % self.config.run.log_every == 0:
            norms = self.balance.measure(host, totals, at=features, step=number, anchors=anchors)
            log += [
                Term(f"{stage.name}_gradients/{name}", host.new_tensor(norm), None, "gradients")
                for stage, of_stage in zip(self.stages, norms, strict=True)
                for name, norm in of_stage.items()
            ]
        self.balance.update(host, totals, at=features, step=number, anchors=anchors)
        summands = [
            Term(
                f"{stage.name}/{name}", value, self.balance.factor(name, place, number), stage.name
            )
            for place, (stage, of_stage) in enumerate(zip(self.stages, totals, strict=True))
            for name, value in of_stage.items()
        ]
        return [*log, *summands]

    def _stage_terms(
        self, stage: RefinableStage, refinement: LayoutRefinement, step: Step
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """h, all unweighted sub-terms, and ‖h*‖ / ‖h‖ of one stage."""
        words, lengths = step.inputs.text.words, step.inputs.text.lengths
        features = stage.features(step.fake)
        if stage.layout is None:
            layout = self._module(stage).layout(features, words, lengths)
        else:
            layout = stage.layout(step.fake)
        images = image_of_size(step.real, stage.image_size)
        real = refinement.real_branch(images, words, lengths)
        parts = refinement.terms(
            features, layout, images, words, lengths, real=real, decode_args=(step.inputs,)
        )
        ratio = (real[0].float().norm() / features.float().norm()).detach()
        return features, parts, ratio

    def real_layouts(self, images: Sequence[Tensor], text: Text) -> tuple[Tensor, ...]:
        """Θ* of real images, one per refined stage."""
        return tuple(
            refinement.real_branch(
                image_of_size(images, stage.image_size), text.words, text.lengths
            )[1]
            for stage, refinement in self._refined()
        )


def image_of_size(images: Sequence[Tensor], size: int) -> Tensor:
    """The one of `images` (B, 3, S, S) with S = `size`."""
    return next(image for image in images if image.shape[-1] == size)
