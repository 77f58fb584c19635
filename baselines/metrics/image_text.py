"""Encoders of images and texts into one space, such as CLIP: brought by the caller, or by name.

Whoever has another one passes anything with the members of `ImageTextEncoder`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

from baselines.errors import UserError
from baselines.metrics import CLIPS
from baselines.metrics.extractors import weights_hash

TEXT_BATCH = 256
PACKAGE = "open_clip_torch"
# OpenAI's networks have the quick approximation of GELU, which open_clip keeps under other names.
ARCHITECTURE, TAG = "{}-quickgelu", "openai"


class EncoderError(UserError):
    """An encoder of images and texts cannot be had; the message says what is missing."""


class ImageTextEncoder(Protocol):
    """Images and texts into vectors of one space, in which cosines tell what fits.

    name: as published; logit_scale: by which cosines are multiplied before a softmax; settings:
    what its vectors depend on.
    """

    name: str
    logit_scale: float
    settings: Mapping[str, Any]

    def images(self, images: Tensor) -> Tensor:
        """(N, E) of (N, 3, H, W) images in [-1, 1]; no unit vectors are expected."""
        ...

    def texts(self, texts: list[str]) -> Tensor:
        """(N, E) of N texts."""
        ...


class ImageCode(NamedTuple):
    """code (N, E), of unit length."""

    code: Tensor


class ImageTextJudge:
    """Unit vectors of images and texts by one encoder; every text is encoded once.

    Args:
        encoder: what encodes.
    """

    def __init__(self, encoder: ImageTextEncoder) -> None:
        self.encoder = encoder
        self.name, self.settings = encoder.name, dict(encoder.settings)
        self._texts: dict[str, Tensor] = {}

    def __call__(self, images: Tensor) -> ImageCode:
        """Encode (N, 3, H, W) images in [-1, 1]."""
        return ImageCode(F.normalize(self.encoder.images(images).float().cpu(), dim=1))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, E) of N texts; the same text has the same vector to the bit."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), TEXT_BATCH):
            part = new[start : start + TEXT_BATCH]
            encoded = F.normalize(self.encoder.texts(part).float().cpu(), dim=1)
            self._texts |= dict(zip(part, encoded, strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def probabilities(self, codes: Tensor, texts: Sequence[Sequence[str]]) -> Tensor:
        """(N, K) softmax over the K texts of each of N images.

        Args:
            codes: (N, E) of the images, as `__call__` gives them.
            texts: K of each.
        """
        vectors = torch.stack([self.texts(each) for each in texts])
        logits = torch.einsum("ne,nke->nk", codes.double(), vectors.double())
        return (self.encoder.logit_scale * logits).softmax(dim=1)


class OpenClipEncoder:
    """A CLIP of the package open_clip.

    Args:
        network: as open_clip makes it, in eval mode.
        tokenizer: from a list of texts to ids.
        name: of the network.
        device: where it is.
    """

    def __init__(
        self, network: torch.nn.Module, tokenizer: Any, name: str, device: torch.device
    ) -> None:
        self.network, self.tokenizer, self.name, self.device = network, tokenizer, name, device
        visual: Any = network.visual
        size = visual.image_size
        self.size = size if isinstance(size, int) else int(size[0])
        shape = (3, 1, 1)
        self._mean = torch.tensor(visual.image_mean, device=device).reshape(shape)
        self._std = torch.tensor(visual.image_std, device=device).reshape(shape)
        scale: Any = network.logit_scale
        self.logit_scale = float(scale.detach().exp())
        self.settings: Mapping[str, Any] = {"encoder": name, "weights": weights_hash(network)}

    @torch.inference_mode()
    def images(self, images: Tensor) -> Tensor:
        """Encode images as CLIP preprocesses files: 8 bits, bicubic, the centre, normalised."""
        pixels = images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        pixels = resize(
            pixels, [self.size], interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        pixels = center_crop(pixels, [self.size]).to(self.device).float() / 255
        network: Any = self.network
        return network.encode_image((pixels - self._mean) / self._std)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """Encode texts; those of more than 77 tokens are cut."""
        network: Any = self.network
        return network.encode_text(self.tokenizer(texts).to(self.device))


def open_clip_encoder(
    name: str, *, file: Path | None = None, device: torch.device
) -> ImageTextEncoder:
    """Open one of OpenAI's CLIPs by the package open_clip.

    Args:
        name: one of `CLIPS`.
        file: its weights, in any form that open_clip reads; without it the usual download.
        device: where to.

    Raises:
        EncoderError: unknown name, no open_clip, or weights that are missing, unreachable or do
            not fit.
    """
    if name not in CLIPS:
        nearest = difflib.get_close_matches(name, CLIPS, n=1, cutoff=0.0)[0]
        raise EncoderError(f"unknown CLIP {name!r}; the nearest is {nearest!r}")
    if file is not None and not file.is_file():
        raise EncoderError(f"{file}: no such file of weights of CLIP {name}")
    try:
        import open_clip
    except ImportError as error:
        raise EncoderError(
            f"CLIP {name} needs the package {PACKAGE}: pip install {PACKAGE}"
        ) from error
    architecture = ARCHITECTURE.format(name)
    try:
        network = open_clip.create_model(
            architecture, pretrained=TAG if file is None else str(file), device=device
        )
    except Exception as error:
        if file is not None:
            raise EncoderError(
                f"{file}: not the weights of CLIP {name} ({type(error).__name__})"
            ) from error
        raise EncoderError(
            f"the weights of CLIP {name} could not be fetched ({type(error).__name__}). Fetch them "
            "elsewhere and give them with --clip-weights FILE"
        ) from error
    return OpenClipEncoder(network.eval(), open_clip.get_tokenizer(architecture), name, device)
