"""Θ* of real images, for runs whose checkpoint holds what layout refinement trained."""

from __future__ import annotations

from torch import Tensor

from baselines.data.loader import pyramid
from baselines.hosts import find_host
from baselines.metrics.drawing import RealLayouts
from baselines.networks.contracts import Text
from baselines.refinement import refinement_terms
from baselines.runs import Run
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.distributed import World


def real_layouts(run: Run) -> RealLayouts | None:
    """How this run lays words out on real images; None where its host alone was trained.

    What refinement trained comes from the newest checkpoint, the generator is the averaged one.
    """
    found, config = checkpoints(run.directory), run.config
    if not found or not config.refine.terms:
        return None
    saved = load_torch(found[-1])["networks"]
    stages = find_host(config.model.name).stages(config, run.generator)
    world = World(device=next(run.generator.parameters()).device)
    extra_terms = refinement_terms(config, stages, run.encoders.image, world)
    for name, network in ((n, net) for extra in extra_terms for n, net in extra.networks.items()):
        network.load_state_dict(saved[name])
        network.eval()
    sizes = config.model.image_sizes

    def layouts(images: Tensor, words: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        reduced, text = pyramid(images, sizes), Text(words, lengths, words.new_zeros(len(words), 0))
        return tuple(
            layout for extra in extra_terms for layout in extra.real_layouts(reduced, text)
        )

    return layouts
