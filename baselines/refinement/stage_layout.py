"""The paper's refinement: Θ and Θ* from the features of the host's own stages (E4-E12, E15)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from alr_layers import ALRModule, LayoutEncoder, LayoutRefinement
from baselines.config import Config
from baselines.networks.contracts import Fusion, GeneratorInputs, RefinableStage, Text
from baselines.refinement.early import differentiated
from baselines.refinement.losses import alr_loss, are_due, lvr_loss, norms_are_due, term_balance
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


class Refined(NamedTuple):
    """Of one stage in one step: h, the terms before they are weighed, and what is logged."""

    features: Tensor
    totals: dict[str, Tensor]
    log: list[Term]


class StageLayoutTerms(ExtraTerms):
    """ALR, reconstruction and LVR terms of every refinable stage.

    Adds to the checkpoint `refinements` (E, φ_α and φ_β of every stage; the generator itself gains
    nothing), `layout_modules` (for hosts without a layout of their own, the `ALRModule`s that give
    one in training) and `balance` (the scales that keep terms at their gradient share). With all
    weights zero the host's training is unchanged to the bit: initial weights come from a random
    stream of their own, and nothing of it is evaluated.

    The terms need of the host nothing but h and Θ. So they are differentiated with respect to these
    and to what they train before discriminators and encoders see the images, and their activations
    are gone by then: a step needs hardly more memory than the host's, and no pass is made twice.
    """

    def __init__(self, config: Config, stages: Sequence[RefinableStage], world: World) -> None:
        self.config, self.stages = config, tuple(stages)
        # Under float16 small gradients must be scaled before they are taken: as late as ever.
        self.early = config.optim.amp != "fp16"
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
        return self.before(step)(host)

    def before(self, step: Step) -> Callable[[Tensor], list[Term]]:
        """Refine all stages, and differentiate; what is left is to weigh against the host."""
        if not are_due(self.config.refine, self.balance, self.names, step.number):
            return lambda host: []
        return partial(self._weighed, step, [self._refine(*one, step) for one in self._refined()])

    def _weighed(self, step: Step, refined: Sequence[Refined], host: Tensor) -> list[Term]:
        number = step.number - 1  # the balance counts from 0
        log = [term for of_stage in refined for term in of_stage.log]
        totals = [of_stage.totals for of_stage in refined]
        features = [of_stage.features for of_stage in refined]
        anchors = [{"reconstruction": stage.anchor} for stage in self.stages]
        if norms_are_due(self.config, step.number):
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

    def _refine(self, stage: RefinableStage, refinement: LayoutRefinement, step: Step) -> Refined:
        words, lengths = step.inputs.text.words, step.inputs.text.lengths
        features = stage.features(step.fake)
        if stage.layout is None:
            layout = self._module(stage).layout(features, words, lengths)
        else:
            layout = stage.layout(step.fake)
        h, theta = features, layout
        if self.early:
            h, theta = (tensor.detach().requires_grad_() for tensor in (features, layout))
        take = self._take(stage, refinement, {h: features, theta: layout})
        images = image_of_size(step.real, stage.image_size)
        real = refinement.real_branch(images, words, lengths)
        # Taken before the others are computed: it keeps more than they do.
        decoded = (images, real[0], words, lengths, (step.inputs,))
        parts = take({"reconstruction": refinement.reconstruction(*decoded)})
        parts |= refinement.comparison(h, theta, real)
        totals = LayoutRefinement.total(parts)
        totals |= take({name: total for name, total in totals.items() if name not in parts})
        log = [
            Term(f"{stage.name}/{name}", value.detach(), None, stage.name)
            for name, value in parts.items()
            if name not in totals
        ]
        ratio = real[0].detach().float().norm() / features.detach().float().norm()
        log.append(Term(f"{stage.name}/feature_ratio", ratio, None, f"{stage.name} scale"))
        return Refined(features, totals, log)

    def _take(
        self, stage: RefinableStage, refinement: LayoutRefinement, cut: Mapping[Tensor, Tensor]
    ) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
        """`differentiated` with respect to all that the terms of a stage reach."""
        if not self.early:
            return lambda losses: losses
        networks = (refinement, self.layout_modules, stage.host)
        weights = (weight for network in networks for weight in network.parameters())
        places = (*cut, *(weight for weight in weights if weight.requires_grad))
        attached = not self.config.refine.detach_target
        return partial(differentiated, at=places, cut=cut, shared=attached)

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
