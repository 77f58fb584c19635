"""Which network of the originals a state_dict belongs to, and our names of it -> theirs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from baselines.hosts import HOSTS
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.originals import ConversionError, renamed
from baselines.networks.trunks import INCEPTION

State = Mapping[str, Tensor]

_ENCODERS = {
    "embedding.": "encoder.",
    "rnn.": "rnn.",
    "trunk.net.": "",
    "region_head.": "emb_features.",
    "code_head.": "emb_cnn_code.",
}


def build_like(state: State) -> nn.Module:
    """Our network for an original's state_dict, on the meta device, without values.

    Raises:
        ConversionError: no network is recognised, or its sizes contradict one another.
    """
    readers = [_encoder, *(host.read_original for host in HOSTS.values() if host.read_original)]
    try:
        # On the meta device nothing is drawn: no orthogonal start to wait for, no random numbers.
        with torch.device("meta"):
            for read in readers:
                module = read(state)
                if module is not None:
                    return module
    except ConversionError:
        raise
    except (KeyError, IndexError, ValueError) as error:
        raise ConversionError(
            f"looks like a network of the originals, but its sizes do not fit: {error}"
        ) from error
    shown = ", ".join(list(state)[:6]) or "no entries at all"
    raise ConversionError(
        "no network that can be converted: expected the keys of a text encoder (encoder.weight, "
        "rnn.*), an image encoder (emb_features.weight, emb_cnn_code.*), or a generator or "
        f"discriminator of {', '.join(_readable())}, found {shown}{', …' * (len(state) > 6)}"
    )


def original_names(module: nn.Module) -> dict[str, str]:
    """The original name of every entry of the module's state_dict.

    Raises:
        ConversionError: the originals have no network of this kind or size.
    """
    if isinstance(module, ImageEncoder) and module.trunk_name != INCEPTION:
        raise ConversionError(
            f"the originals' image encoder is {INCEPTION}, this one is {module.trunk_name}"
        )
    if isinstance(module, (TextEncoder, ImageEncoder)):
        return {key: renamed(key, _ENCODERS) for key in module.state_dict()}
    for host in HOSTS.values():
        names = host.original_names(module) if host.original_names else None
        if names is not None:
            return names
    raise ConversionError(f"the originals have no counterpart of {type(module).__name__}")


def _readable() -> list[str]:
    return [host.name for host in HOSTS.values() if host.read_original]


def _encoder(state: State) -> nn.Module | None:
    if "encoder.weight" in state and "rnn.weight_ih_l0" in state:
        return _text_encoder(state)
    if "emb_features.weight" in state and "emb_cnn_code.weight" in state:
        return ImageEncoder(embedding_dim=state["emb_features.weight"].shape[0])
    return None


def _text_encoder(state: State) -> TextEncoder:
    vocabulary_size, token_dim = state["encoder.weight"].shape
    rows, hidden = state["rnn.weight_ih_l0"].shape[0], state["rnn.weight_hh_l0"].shape[1]
    if rows == 3 * hidden:
        raise ConversionError("this text encoder is a GRU; only the LSTM is supported")
    return TextEncoder(vocabulary_size, embedding_dim=2 * hidden, token_dim=token_dim)
