"""Named feature extractors: a Fréchet distance means nothing without saying of which features.

- `damsm`: the global code of the run's own image encoder. Always at hand; not FID.
- `inception-2015`: what published FID and IS mean, the Inception of 2015-12-05.
- `torchvision-imagenet`: torchvision's Inception-v3, preprocessed as DM-GAN's FID does.
- `dinov2`: DINOv2's ViT-L/14, for FD-DINOv2.
- `cub-classifier`: a classifier of birds from a TorchScript file, for IS and IS* on CUB.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from baselines.errors import UserError

# The names of extractors do not wait for torch: what needs it is imported where it is used.
if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from baselines.metrics.features import Provenance
    from baselines.networks.encoders import ImageEncoder


class ExtractorError(UserError):
    """An extractor cannot be had; the message says what is missing and the remedy."""


class Features(NamedTuple):
    """pooled (B, D); logits (B, C), or None without a classifier."""

    pooled: Tensor
    logits: Tensor | None


class Extractor(Protocol):
    """Images to features, and where the features come from."""

    provenance: Provenance
    dimension: int
    has_classifier: bool

    def __call__(self, images: Tensor) -> Features:
        """Features of (B, 3, H, W) images in [-1, 1]."""
        ...


class DamsmExtractor:
    """The global code of DAMSM's image encoder, of float images."""

    has_classifier = False

    def __init__(self, encoder: ImageEncoder) -> None:
        from baselines.metrics.features import Provenance

        self.encoder = encoder
        self.dimension = encoder.embedding_dim
        self.provenance = Provenance(
            "damsm",
            weights_hash(encoder),
            f"float, corner-aligned bilinear to {encoder.input_size}",
        )

    def __call__(self, images: Tensor) -> Features:
        """Features of (B, 3, H, W) images in [-1, 1]."""
        return Features(self.encoder(images).code, None)


@dataclass(frozen=True)
class ExtractorSpec:
    """How an extractor is opened and what its numbers are called.

    open: from (file of weights or None, device); distance: what the Fréchet distance of its
    features is called; is_inception: whether its kernel distance is KID; temperature: by which
    published IS* divides its logits.
    """

    open: Callable[[Path | None, torch.device], Extractor]
    distance: str
    is_inception: bool = False
    temperature: float | None = None


def _network(opener: str) -> Callable[[Path | None, torch.device], Extractor]:
    """Open a network of `inception`, which is imported when one is wanted."""

    def opened(file: Path | None, device: torch.device) -> Extractor:
        from baselines.metrics import inception

        made: Extractor = getattr(inception, opener)(file, device)
        return made

    return opened


def _needs_run(file: Path | None, device: torch.device) -> Extractor:
    raise ExtractorError("damsm are the features of a run's image encoder: it needs --run")


EXTRACTORS: dict[str, ExtractorSpec] = {
    "damsm": ExtractorSpec(_needs_run, "Fréchet distance (damsm features: not FID)"),
    "inception-2015": ExtractorSpec(
        _network("open_inception_2015"), "FID (inception-2015)", is_inception=True
    ),
    "torchvision-imagenet": ExtractorSpec(
        _network("open_torchvision"),
        "FID (torchvision-imagenet)",
        is_inception=True,
        temperature=0.909136,
    ),
    "dinov2": ExtractorSpec(_network("open_dinov2"), "fd_dinov2 (not FID)"),
    "cub-classifier": ExtractorSpec(
        _network("open_cub_classifier"),
        "Fréchet distance (logits of cub-classifier: not FID)",
        temperature=0.598054,
    ),
}


def open_extractor(
    name: str,
    encoder: ImageEncoder | None,
    *,
    files: Mapping[str, Path] | None = None,
    device: torch.device,
) -> Extractor:
    """Open the extractor called `name`, in eval mode on `device`.

    Args:
        name: one of `EXTRACTORS`.
        encoder: the run's image encoder, for `damsm`; None without a run.
        files: weights by extractor; without a file they are fetched by the usual download.
        device: where to.

    Raises:
        ExtractorError: unknown name, or weights that are missing, unreachable or do not fit.
    """
    if name not in EXTRACTORS:
        nearest = difflib.get_close_matches(name, list(EXTRACTORS), n=1, cutoff=0.0)[0]
        raise ExtractorError(f"unknown extractor {name!r}; the nearest is {nearest!r}")
    file = (files or {}).get(name)
    if file is not None and not file.is_file():
        raise ExtractorError(f"--weights {name}={file}: no such file")
    if name == "damsm" and encoder is not None:
        return DamsmExtractor(encoder)
    return EXTRACTORS[name].open(file, device)


def weights_hash(*modules: nn.Module) -> str:
    """Hash all floating parameters and buffers by their content, to 16 hex digits.

    Neither names nor order enter, nor integer buffers (counters of batches): the same network
    read from a state dictionary and from TorchScript has the same hash.
    """
    import torch

    parts = []
    for module in modules:
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                values = tensor.detach().cpu().contiguous()
                digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
                digest.update(values.view(-1).view(torch.uint8).numpy().tobytes())
                parts.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]
