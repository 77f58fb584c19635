"""Which network of the originals a state_dict belongs to, and how large it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from baselines.conversion.keys import ConversionError
from baselines.hosts.attngan.fusion import WordAttention
from baselines.hosts.dmgan.fusion import DynamicMemory
from baselines.networks.discriminators import Discriminator
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import FIRST_GRID, StackedGenerator

State = Mapping[str, Tensor]
SPECTRAL_KEY = "img_code_s16.0.module.weight_bar"


def build_like(state: State) -> nn.Module:
    """Our network for an original's state_dict, on the meta device, without values.

    Raises:
        ConversionError: no network is recognised, or its sizes contradict one another.
    """
    make: Callable[[State], nn.Module]
    if "encoder.weight" in state and "rnn.weight_ih_l0" in state:
        kind, make = "text encoder", _text_encoder
    elif "emb_features.weight" in state and "emb_cnn_code.weight" in state:
        kind, make = "image encoder", _image_encoder
    elif "ca_net.fc.weight" in state and "h_net1.fc.0.weight" in state:
        kind, make = "generator", _generator
    elif "img_code_s16.0.weight" in state or SPECTRAL_KEY in state:
        kind, make = "discriminator", _discriminator
    else:
        shown = ", ".join(list(state)[:6]) or "no entries at all"
        raise ConversionError(
            "no network of AttnGAN, DM-GAN or DAMSM: expected the keys of a text encoder "
            "(encoder.weight, rnn.*), an image encoder (emb_features.weight, emb_cnn_code.*), a "
            "generator (ca_net.*, h_net1.*) or a discriminator (img_code_s16.*, COND_DNET.*), "
            f"found {shown}{', …' * (len(state) > 6)}"
        )
    try:
        # On the meta device nothing is drawn: no orthogonal start to wait for, no random numbers.
        with torch.device("meta"):
            return make(state)
    except ConversionError:
        raise
    except (KeyError, IndexError, ValueError) as error:
        raise ConversionError(f"looks like a {kind}, but its sizes do not fit: {error}") from error


def _count(state: State, pattern: str) -> int:
    """How many different values group 1 of `pattern` takes among the keys."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _text_encoder(state: State) -> TextEncoder:
    vocabulary_size, token_dim = state["encoder.weight"].shape
    rows, hidden = state["rnn.weight_ih_l0"].shape[0], state["rnn.weight_hh_l0"].shape[1]
    if rows == 3 * hidden:
        raise ConversionError("this text encoder is a GRU; only the LSTM is supported")
    return TextEncoder(vocabulary_size, embedding_dim=2 * hidden, token_dim=token_dim)


def _image_encoder(state: State) -> ImageEncoder:
    return ImageEncoder(embedding_dim=state["emb_features.weight"].shape[0])


def _generator(state: State) -> StackedGenerator:
    condition_dim = state["ca_net.fc.bias"].shape[0] // 4
    single_image = "img_net.img.0.weight" in state
    head = "img_net.img.0.weight" if single_image else "img_net1.img.0.weight"
    return StackedGenerator(
        feature_dim=state[head].shape[1],
        fusion=DynamicMemory if "h_net2.M_w.0.weight" in state else WordAttention,
        embedding_dim=state["ca_net.fc.weight"].shape[1],
        condition_dim=condition_dim,
        noise_dim=state["h_net1.fc.0.weight"].shape[1] - condition_dim,
        base_size=FIRST_GRID * 2 ** _count(state, r"h_net1\.upsample(\d+)\."),
        stages=_count(state, r"h_net(\d+)\."),
        residual_blocks=_count(state, r"h_net2\.residual\.(\d+)\."),
        single_image=single_image,
    )


def _discriminator(state: State) -> Discriminator:
    spectral = SPECTRAL_KEY in state
    first = state[SPECTRAL_KEY if spectral else "img_code_s16.0.weight"]
    joint = "COND_DNET.jointConv.0." + ("module.weight_bar" if spectral else "weight")
    image_size = 64 * 2 ** _count(state, r"img_code_s(32|64)\.")
    return Discriminator(
        image_size=image_size,
        feature_dim=first.shape[0],
        embedding_dim=state[joint].shape[1] - 8 * first.shape[0],
        norm="spectral" if spectral else "batch",
        unconditional="UNCOND_DNET.outlogits.0.weight" in state,
    )
