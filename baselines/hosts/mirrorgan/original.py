"""MirrorGAN's networks: `G_NET` with its `GLAttention`, `CAPTION_CNN` and `CAPTION_RNN`.

Its discriminators and text encoder are AttnGAN's, key for key.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeGuard

from torch import nn

from baselines.hosts.mirrorgan.captioner import CaptionDecoder, CaptionImageEncoder
from baselines.hosts.mirrorgan.fusion import GlobalLocalAttention
from baselines.hosts.mirrorgan.presets import CUB_MODEL
from baselines.hosts.stacked_original import (
    GATE_KEY,
    State,
    condition_dim_of,
    generator_description,
    generator_like,
    generator_names,
    is_generator,
)
from baselines.networks.generator import StackedGenerator
from baselines.networks.originals import ConversionError, count, renamed

FUSION = {
    "attention.alr.word_projection.": "att.conv_context.",
    "project.": "att.linear.",
    "gate.": "att.conv_sentence_vis.",
    "join.": "conv.",
}
# The original makes a sequence of torchvision's children; 2 and 3 (ReLU, pooling) have no weights.
RESNET = {
    "trunk.net.conv1.": "resnet.0.",
    "trunk.net.bn1.": "resnet.1.",
    **{f"trunk.net.layer{level}.": f"resnet.{level + 3}." for level in (1, 2, 3, 4)},
    "linear.": "linear.",
    "norm.": "bn.",
}
# Blocks per level of the ResNets of this kind; the original's is the deepest.
DEPTHS = {(2, 2, 2, 2): 26, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
DECODER = {"embedding.": "embed.", "lstm.": "lstm.", "linear.": "linear."}


def read_original(state: State) -> nn.Module | None:
    """The network that `state` belongs to, without values; None if it is not MirrorGAN's alone."""
    if is_generator(state) and GATE_KEY in state:
        fusion = partial(GlobalLocalAttention, condition_dim=condition_dim_of(state))
        return generator_like(state, fusion)
    if "resnet.4.0.conv3.weight" in state and "bn.running_mean" in state:
        return _image_encoder(state)
    if "embed.weight" in state and "lstm.weight_hh_l0" in state:
        size, width = state["embed.weight"].shape
        hidden = state["lstm.weight_hh_l0"].shape[1]
        return CaptionDecoder(size, embedding_dim=width, hidden_dim=hidden)
    return None


def original_names(module: nn.Module) -> dict[str, str] | None:
    """The original's name of every entry of the state_dict; None if it has no such network.

    Raises:
        ConversionError: a captioner that sees with something else than a ResNet.
    """
    if _is_generator(module):
        return generator_names(module, FUSION)
    if isinstance(module, CaptionImageEncoder):
        if module.trunk_name.partition(".")[0] not in {f"resnet{d}" for d in DEPTHS.values()}:
            raise ConversionError(
                f"the original captioner sees with a ResNet, this one with {module.trunk_name}"
            )
        return {key: renamed(key, RESNET) for key in module.state_dict()}
    if isinstance(module, CaptionDecoder):
        return {key: renamed(key, DECODER) for key in module.state_dict()}
    return None


def describe(module: nn.Module) -> dict[str, Any] | None:
    """Kind and sizes, see `Host.describe`."""
    if _is_generator(module):
        return generator_description(module, CUB_MODEL)
    if isinstance(module, CaptionImageEncoder):
        sizes = {"trunk": module.trunk_name, "embedding_dim": module.embedding_dim}
        return {"kind": "caption_image_encoder", **sizes}
    if isinstance(module, CaptionDecoder):
        sizes = {"embedding_dim": module.embedding_dim, "hidden_dim": module.hidden_dim}
        return {"kind": "caption_decoder", "vocabulary_size": module.vocabulary_size, **sizes}
    return None


def _is_generator(module: nn.Module) -> TypeGuard[StackedGenerator]:
    return isinstance(module, StackedGenerator) and any(
        isinstance(stage.fusion, GlobalLocalAttention) for stage in module.stages
    )


def _image_encoder(state: State) -> CaptionImageEncoder:
    blocks = tuple(count(state, rf"resnet\.{level}\.(\d+)\.") for level in (4, 5, 6, 7))
    if blocks not in DEPTHS:
        raise ConversionError(
            f"a captioner's ResNet with {blocks} blocks per level; known are {list(DEPTHS)}"
        )
    return CaptionImageEncoder(
        embedding_dim=state["linear.weight"].shape[0], trunk=f"resnet{DEPTHS[blocks]}"
    )
