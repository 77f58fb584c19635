"""Layouts of words on given images: Θ* of a run's layout encoders, and that of DAMSM's regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from alr_layers import semantic_similarity
from baselines.data.loader import pyramid
from baselines.metrics.pairs import Pairs
from baselines.metrics.spec import LayoutMaker
from baselines.networks.encoders import ImageEncoder
from baselines.refinement.objective import build_refinement
from baselines.runs import Run
from baselines.training.checkpoint import checkpoints, load_torch


def damsm_layout(encoder: ImageEncoder, images: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    """Distribute every region of DAMSM's image encoder over the words of the caption.

    The layout of a host that has none of its own: a softmax over the words of the products of
    regions and words, as a refined host's Θ is of its features.

    Args:
        encoder: in eval mode.
        images: (B, 3, S, S) in [-1, 1].
        words: (B, E, T) of the text encoder that was trained with it.
        lengths: (B,).

    Returns:
        (B, T, R, R), zero at padded words.
    """
    regions = encoder(images).regions.float()
    return semantic_similarity(regions, words.float(), lengths.to(regions.device))


Refined = Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]]


def run_layouts(run: Run, pairs: Pairs) -> LayoutMaker:
    """Make the layouts of real images by name: "stage1", ... where the run can, and "damsm".

    The layout encoders of the newest checkpoint are used with the averaged generator; a run
    without them has the DAMSM layout alone.
    """
    refined = refined_layouts(run)

    def layouts(images: Tensor, rows: Tensor) -> Mapping[str, Tensor]:
        words = run.encoders.text(pairs.ids[rows].to(images.device), pairs.lengths[rows]).words
        lengths = pairs.lengths[rows].to(images.device)
        found = {} if refined is None else dict(refined(images, words, lengths))
        return found | {"damsm": damsm_layout(run.encoders.image, images, words, lengths)}

    return layouts


def refined_layouts(run: Run) -> Refined | None:
    """Make Θ* of a run by stage; None where it has no layout encoders."""
    found = checkpoints(run.directory)
    config = run.config
    if not found or not config.refine.terms:
        return None
    state = load_torch(found[-1])["networks"].get("refinements")
    if state is None:
        return None
    stages = range(1, config.model.stages)
    encoders = [build_refinement(config, run.generator, stage) for stage in stages]
    refinements = nn.ModuleList(encoders)
    refinements.load_state_dict(state)
    refinements.to(next(run.generator.parameters()).device).eval()
    sizes = [config.model.base_size * 2**stage for stage in range(config.model.stages)]
    shift = 0 if config.refine.decode == "stage" else 1

    @torch.no_grad()
    def layouts(images: Tensor, words: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
        reduced = pyramid(images, sizes)
        return {
            f"stage{stage}": made.real_branch(reduced[stage - shift], words, lengths)[1]
            for stage, made in enumerate(encoders, start=1)
        }

    return layouts
