"""Θ* of real images, for runs whose checkpoint holds the layout encoders."""

from __future__ import annotations

from torch import Tensor, nn

from baselines.data.loader import pyramid
from baselines.metrics.drawing import RealLayouts
from baselines.refinement.objective import build_refinement
from baselines.runs import Run
from baselines.training.checkpoint import checkpoints, load_torch


def real_layouts(run: Run) -> RealLayouts | None:
    """How this run lays words out on real images; None where it has no layout encoders.

    The encoders of the newest checkpoint are used with the averaged generator.
    """
    found = checkpoints(run.directory)
    config = run.config
    if not found or not config.refine.terms:
        return None
    state = load_torch(found[-1])["networks"].get("refinements")
    if state is None:
        return None
    refinements = nn.ModuleList(
        build_refinement(config, run.generator, stage) for stage in range(1, config.model.stages)
    )
    refinements.load_state_dict(state)
    refinements.to(next(run.generator.parameters()).device).eval()
    sizes = [config.model.base_size * 2**stage for stage in range(config.model.stages)]
    shift = 0 if config.refine.decode == "stage" else 1

    def layouts(images: Tensor, words: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        reduced = pyramid(images, sizes)
        return tuple(
            refinement.real_branch(reduced[stage - shift], words, lengths)[1]
            for stage, refinement in enumerate(refinements, start=1)
        )

    return layouts
