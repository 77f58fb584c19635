"""Layouts of words on given images: Θ* of a run's layout encoders, and that of DAMSM's regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from baselines.data.loader import pyramid
from baselines.hosts import find_host
from baselines.metrics.pairs import Pairs
from baselines.metrics.spec import LayoutMaker
from baselines.networks.contracts import Text
from baselines.networks.encoders import ImageEncoder
from baselines.refinement import StageLayoutTerms, layout_of_regions
from baselines.runs import Run
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.distributed import World


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
    return layout_of_regions(encoder(images).regions, words, lengths)


Refined = Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]]


def run_layouts(run: Run, pairs: Pairs) -> LayoutMaker:
    """Make the layouts of real images by name, see `real_layouts`; of pairs by their rows."""
    real = real_layouts(run)

    def layouts(images: Tensor, rows: Tensor) -> Mapping[str, Tensor]:
        words = run.encoders.text(pairs.ids[rows].to(images.device), pairs.lengths[rows]).words
        return real(images, words, pairs.lengths[rows].to(images.device))

    return layouts


def real_layouts(run: Run) -> Refined:
    """Make Θ* of real images by name: "stage1", ... where the run can, and "damsm".

    The layout encoders of the newest checkpoint are used with the averaged generator; a run
    without them has the DAMSM layout alone. Takes images (B, 3, S, S) in [-1, 1], words (B, E, T)
    and lengths (B,); gives (B, T, h, w) each.
    """
    refined = refined_layouts(run)

    def layouts(images: Tensor, words: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
        found = {} if refined is None else dict(refined(images, words, lengths))
        return found | {"damsm": damsm_layout(run.encoders.image, images, words, lengths)}

    return layouts


def refined_layouts(run: Run) -> Refined | None:
    """Make Θ* of a run by stage; None where no layout encoders were trained."""
    found, config = checkpoints(run.directory), run.config
    if not found or not config.refine.terms or config.refine.source != "module":
        return None
    saved = load_torch(found[-1])["networks"]
    stages = find_host(config.model.name).stages(config, run.generator)
    world = World(device=next(run.generator.parameters()).device)
    refined = StageLayoutTerms(config, stages, world)
    for name, network in refined.networks.items():
        if name not in saved:
            return None
        network.load_state_dict(saved[name])
        network.eval()
    names = [stage.name for stage in stages]

    @torch.no_grad()
    def layouts(images: Tensor, words: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
        text = Text(words, lengths, words.new_zeros(len(words), 0))
        reduced = pyramid(images, config.model.image_sizes)
        return dict(zip(names, refined.real_layouts(reduced, text), strict=True))

    return layouts
