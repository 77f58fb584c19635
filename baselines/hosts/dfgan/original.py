"""DF-GAN's released networks, `NetG`, `NetD` and `NetC` of 2022; the older ones are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from baselines.config import to_dict
from baselines.hosts.dfgan.discriminator import DFGANDiscriminator, MatchHead
from baselines.hosts.dfgan.generator import DFGANGenerator
from baselines.hosts.dfgan.presets import MODEL
from baselines.networks.generator import FIRST_GRID
from baselines.networks.originals import ConversionError, count, renamed

State = Mapping[str, Tensor]

_AFFINE = re.compile(r"blocks\.(\d+)\.fusions\.(\d)\.affines\.(\d)\.(scale|shift)\.([02])\.(\w+)")
_CONVOLUTION = re.compile(r"blocks\.(\d+)\.convolutions\.(\d)\.(\w+)")
_SHORTCUT = re.compile(r"blocks\.(\d+)\.shortcut\.(\w+)")
_ENDS = {"first.": "fc.", "head.": "to_rgb.1."}
_HEAD = {"joint.": "joint_conv."}


def read_original(state: State) -> nn.Module | None:
    """The network that `state` belongs to, without values; None if it is not DF-GAN's.

    `NetD` and `NetC` may come apart, each as its own network, or in one dictionary.

    Raises:
        ConversionError: it is a network of the release before April 2022.
    """
    if "block0.gamma" in state or "COND_DNET.joint_conv.0.weight" in state:
        raise ConversionError(
            "looks like DF-GAN's release before April 2022 (block0.gamma), whose networks are "
            "others: seven blocks with gated residuals, the sentence alone in the affine maps; "
            "convert a file of the later release, whose keys begin with GBlocks. or DBlocks."
        )
    if "GBlocks.0.c1.weight" in state:
        noise_dim = state["fc.weight"].shape[1]
        condition = state["GBlocks.0.fuse1.affine0.fc_gamma.linear1.weight"].shape[1]
        return DFGANGenerator(
            image_size=FIRST_GRID * 2 ** count(state, r"GBlocks\.(\d+)\."),
            feature_dim=state["to_rgb.1.weight"].shape[1],
            embedding_dim=condition - noise_dim,
            noise_dim=noise_dim,
        )
    head = _head_like(state) if "joint_conv.0.weight" in state else None
    if "DBlocks.0.conv_r.0.weight" in state:
        return DFGANDiscriminator(
            image_size=FIRST_GRID * 2 ** count(state, r"DBlocks\.(\d+)\."),
            feature_dim=state["conv_img.weight"].shape[0],
            embedding_dim=None if head is None else head.embedding_dim,
        )
    return head


def _head_like(state: State) -> MatchHead:
    rows, columns = state["joint_conv.0.weight"].shape[:2]
    return MatchHead(rows // 2, columns - 4 * rows)


def original_names(module: nn.Module) -> dict[str, str] | None:
    """The original's name of every entry of the state_dict; None if it has no such network."""
    if isinstance(module, DFGANGenerator):
        return {key: _generator_name(key) for key in module.state_dict()}
    if isinstance(module, DFGANDiscriminator):
        return {key: _discriminator_name(key) for key in module.state_dict()}
    if isinstance(module, MatchHead):
        return {key: renamed(key, _HEAD) for key in module.state_dict()}
    return None


def describe(module: nn.Module) -> dict[str, Any] | None:
    """Kind and sizes, see `Host.describe`."""
    if isinstance(module, DFGANGenerator):
        model = replace(
            MODEL,
            feature_dim=module.feature_dim,
            noise_dim=module.noise_dim,
            base_size=module.image_sizes[0],
        )
        return {"kind": "generator", **to_dict(model)}
    if isinstance(module, DFGANDiscriminator):
        sizes = {"feature_dim": module.feature_dim, "conditional": module.conditional is not None}
        return {"kind": f"discriminator_{module.image_size}", **sizes}
    if isinstance(module, MatchHead):
        sizes = {"feature_dim": module.feature_dim, "embedding_dim": module.embedding_dim}
        return {"kind": "discriminator_head", **sizes}
    return None


def _generator_name(key: str) -> str:
    if match := _AFFINE.fullmatch(key):
        block, fusion, affine, kind, layer, rest = match.groups()
        linear = f"fc_{'gamma' if kind == 'scale' else 'beta'}.linear{int(layer) // 2 + 1}"
        return f"GBlocks.{block}.fuse{int(fusion) + 1}.affine{affine}.{linear}.{rest}"
    if match := _CONVOLUTION.fullmatch(key):
        return f"GBlocks.{match[1]}.c{int(match[2]) + 1}.{match[3]}"
    if match := _SHORTCUT.fullmatch(key):
        return f"GBlocks.{match[1]}.c_sc.{match[2]}"
    return renamed(key, _ENDS)


def _discriminator_name(key: str) -> str:
    name = re.sub(r"^blocks\.", "DBlocks.", key)
    name = name.replace(".residual.", ".conv_r.").replace(".shortcut.", ".conv_s.")
    name = name.replace(".gate", ".gamma").replace("conditional.joint.", "joint_conv.")
    return re.sub(r"^first\.", "conv_img.", name)
