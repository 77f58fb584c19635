"""Adaptive layout refinement (ALR-GAN) as layers and losses for text-to-image GANs."""

from alr_layers.alr import ALRLoss, ALRModule, LayoutOutput
from alr_layers.attached import AttachedRefinement
from alr_layers.attaching import attach
from alr_layers.balance import TermBalance
from alr_layers.captions import lengths_from_clip_tokens, lengths_from_mask
from alr_layers.encoder import LayoutEncoder
from alr_layers.functional import (
    alr_loss,
    alr_residual,
    layout_mask,
    perception_refinement_loss,
    semantic_similarity,
    style_refinement_loss,
    text_vision_matrix,
)
from alr_layers.kernels.dispatch import FusedUnavailableError, explain, use_backend
from alr_layers.lvr import LVRLoss
from alr_layers.refinement import LayoutRefinement, LayoutSource
from alr_layers.statistics import frozen_statistics

__version__ = "0.2.0"

__all__ = [
    "ALRLoss",
    "ALRModule",
    "AttachedRefinement",
    "FusedUnavailableError",
    "LVRLoss",
    "LayoutEncoder",
    "LayoutOutput",
    "LayoutRefinement",
    "LayoutSource",
    "TermBalance",
    "alr_loss",
    "alr_residual",
    "attach",
    "explain",
    "frozen_statistics",
    "layout_mask",
    "lengths_from_clip_tokens",
    "lengths_from_mask",
    "perception_refinement_loss",
    "semantic_similarity",
    "style_refinement_loss",
    "text_vision_matrix",
    "use_backend",
]
