"""Refinement on the layout that the frozen DAMSM sees: an extension of ours, not the paper's.

Θ and Θ* are softmaxes over the caption's real words of regions x words, as DAMSM's own attention
begins, of the synthesized image and of the real image that belongs to the caption. The losses on
top are the paper's (E5-E12); nothing is encoded or decoded for them, so E4 falls away, and any host
can be refined, words or not. DAMSM's words mean something from the first step on, which is where
the layouts of a young generator's features fail.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alr_layers import semantic_similarity
from baselines.config import Config
from baselines.networks.contracts import Text
from baselines.networks.encoders import ImageEncoder
from baselines.refinement.losses import alr_loss, are_due, lvr_loss, norms_are_due, term_balance
from baselines.training.distributed import World, step_seed
from baselines.training.objective import Step
from baselines.training.terms import ExtraTerms, Term


def layout_of_regions(regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    """Each region's distribution over the caption's words, as DAMSM's own attention begins.

    Args:
        regions: (B, E, R, R), of the image encoder.
        words: (B, E, T), of the text encoder trained with it.
        lengths: (B,).

    Returns:
        (B, T, R, R) float32, 0 at padded words.
    """
    return semantic_similarity(regions.float(), words.float(), lengths.to(regions.device))


class DAMSMLayoutTerms(ExtraTerms):
    """ALR and LVR terms on the regions of the last image.

    Adds to the checkpoint `alr` (φ_α and φ_β) and `balance`. Gradients are compared with the host's
    at the last image, where both meet whatever the host is.
    """

    def __init__(self, config: Config, image_encoder: ImageEncoder, world: World) -> None:
        self.config, self.image_encoder = config, image_encoder
        self.names = ["alr", *(["lvr"] if "lvr" in config.refine.names else [])]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(config.run.seed, 0, 0))
            self.alr = alr_loss(config, config.encoder.embedding_dim).to(world.device)
        self.lvr = lvr_loss(config)
        self.balance = term_balance(config.refine, self.names).to(world.device)
        self.networks = {"alr": self.alr, "balance": self.balance}

    def terms(self, step: Step, host: Tensor) -> list[Term]:
        """The weighted terms; logged beside them the parts, unweighted, and mean |Θ* - Θ|."""
        if not are_due(self.config.refine, self.balance, self.names, step.number):
            return []
        number = step.number - 1  # the balance counts from 0
        text, image = step.inputs.text, step.fake.images[-1]
        regions = step.image_features(self.image_encoder).regions.float()
        layout = layout_of_regions(regions, text.words, text.lengths)
        with torch.no_grad():
            real = self.image_encoder(step.real[-1]).regions.float()
            real_layout = layout_of_regions(real, text.words, text.lengths)
        parts = self.alr.terms(layout, real_layout, real)
        totals = {"alr": torch.stack(list(parts.values())).sum()}
        if "lvr" in self.names:
            seen = self.lvr.terms(regions, real, layout, real_layout)
            totals["lvr"] = torch.stack(list(seen.values())).sum()
            parts |= seen
        parts["difference"] = (layout - real_layout).detach().abs().sum(1).mean()
        log = [Term(f"damsm/{name}", value, None, "damsm layout") for name, value in parts.items()]
        if norms_are_due(self.config, step.number):
            (norms,) = self.balance.measure(host, totals, at=image, step=number)
            log += [
                Term(f"damsm_gradients/{name}", host.new_tensor(norm), None, "gradients")
                for name, norm in norms.items()
            ]
        self.balance.update(host, totals, at=image, step=number)
        return [
            *log,
            *(
                Term(f"damsm/{name}", value, self.balance.factor(name, 0, number), "damsm layout")
                for name, value in totals.items()
            ),
        ]

    def real_layouts(self, images: Sequence[Tensor], text: Text) -> tuple[Tensor, ...]:
        """Θ* on the regions of the image encoder."""
        regions = self.image_encoder(images[-1]).regions
        return (layout_of_regions(regions, text.words, text.lengths),)
