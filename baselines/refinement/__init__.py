"""What ALR adds to the objective of any host."""

from __future__ import annotations

from collections.abc import Sequence

from baselines.config import Config
from baselines.networks.contracts import RefinableStage
from baselines.networks.encoders import ImageEncoder
from baselines.refinement.damsm_layout import DAMSMLayoutTerms, layout_of_regions
from baselines.refinement.stage_layout import StageLayoutTerms
from baselines.training.distributed import World
from baselines.training.terms import ExtraTerms

__all__ = ["DAMSMLayoutTerms", "StageLayoutTerms", "layout_of_regions", "refinement_terms"]


def refinement_terms(
    config: Config, stages: Sequence[RefinableStage], image_encoder: ImageEncoder, world: World
) -> list[ExtraTerms]:
    """The extra terms that `config.refine` asks for: none, or those of its source of layouts.

    Args:
        config: of the whole run.
        stages: what of the host can be refined; unused where the layouts are DAMSM's.
        image_encoder: frozen.
        world: this process's place.
    """
    if not config.refine.terms:
        return []
    if config.refine.source == "damsm":
        return [DAMSMLayoutTerms(config, image_encoder, world)]
    return [StageLayoutTerms(config, stages, world)]
