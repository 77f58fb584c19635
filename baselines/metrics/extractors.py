"""Named feature extractors: a Fréchet distance means nothing without saying of which features.

- `damsm`: the global code of the run's own image encoder. Always at hand; not FID.
- `inception-2015`: what published FID and IS mean, the Inception of 2015-12-05.
- `torchvision-imagenet`: torchvision's Inception-v3, preprocessed as DM-GAN's FID does.
"""

from __future__ import annotations

import difflib
import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.errors import UserError
from baselines.metrics.quality import Provenance
from baselines.networks.encoders import ImageEncoder
from baselines.pictures.grids import to_bytes

INCEPTION_SIDE = 299
INCEPTION_DIM = 2048
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
TORCHVISION_FILE = "inception_v3_google-0cc3c7bd.pth"


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


class Inception2015:
    """The standard FID Inception.

    Args:
        network: takes (B, 3, 299, 299) in [-1, 1) and gives (B, 2048) pool3 features.
        weight, weights: of the classifier (C, 2048), if there is one; and their hash.
    """

    def __init__(self, network: nn.Module, classifier: Tensor | None, weights: str) -> None:
        self.network, self.classifier = network, classifier
        self.dimension = INCEPTION_DIM
        self.has_classifier = classifier is not None
        self.provenance = Provenance(
            "inception-2015", weights, "8 bit, TensorFlow 1 bilinear to 299, (x - 128) / 128"
        )

    def __call__(self, images: Tensor) -> Features:
        """Features of (B, 3, H, W) images in [-1, 1]; logits without the bias, as IS has them."""
        pixels = resize_like_tensorflow1(to_bytes(images).float(), INCEPTION_SIDE)
        pooled = self.network((pixels - 128) / 128)
        if not isinstance(pooled, Tensor) or pooled.flatten(1).shape[1] != INCEPTION_DIM:
            found = tuple(pooled.shape) if isinstance(pooled, Tensor) else type(pooled).__name__
            raise ExtractorError(
                f"the file of inception-2015 gives {found}; expected (B, {INCEPTION_DIM}) features"
            )
        pooled = pooled.flatten(1)
        logits = None if self.classifier is None else pooled @ self.classifier.T
        return Features(pooled, logits)


class TorchvisionInception:
    """Torchvision's ImageNet Inception-v3 behind DM-GAN's preprocessing.

    The per-channel affine map is meant for ImageNet-normalised input and gets [0, 1] here: that
    is what the published figures with torchvision's weights were computed with.
    """

    has_classifier = True

    def __init__(self, network: nn.Module) -> None:
        self.dimension = INCEPTION_DIM
        self.provenance = Provenance(
            "torchvision-imagenet",
            weights_hash(network),
            "8 bit, bilinear to 299, [0, 1], transform_input (DM-GAN)",
        )
        self.classifier = network.fc
        network.fc = nn.Identity()
        self.network = network

    def __call__(self, images: Tensor) -> Features:
        """Features of (B, 3, H, W) images in [-1, 1]."""
        size = (INCEPTION_SIDE, INCEPTION_SIDE)
        pixels = to_bytes(images).float() / 255
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        pooled = self.network(pixels)
        return Features(pooled, self.classifier(pooled))


NAMES = ("damsm", "inception-2015", "torchvision-imagenet")


def open_extractor(
    name: str, encoder: ImageEncoder, *, file: Path | None, device: torch.device
) -> Extractor:
    """The extractor called `name`, in eval mode on `device`.

    Args:
        name: one of `NAMES`.
        encoder: the run's image encoder, for `damsm`.
        file: the weights of an Inception; without it they are fetched by the usual download.
        device: where to.

    Raises:
        ExtractorError: unknown name, or weights that are missing, unreachable or do not fit.
    """
    if name not in NAMES:
        nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
        raise ExtractorError(f"unknown extractor {name!r}; the nearest is {nearest!r}")
    if file is not None and not file.is_file():
        raise ExtractorError(f"--inception {file}: no such file")
    if name == "damsm":
        return DamsmExtractor(encoder)
    if name == "inception-2015":
        return _inception_2015(file, device)
    return _torchvision_inception(file, device)


def weights_hash(module: nn.Module) -> str:
    """16 hex digits that depend on every parameter and buffer, by name, and on nothing else."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()[:16]


def resize_like_tensorflow1(images: Tensor, side: int) -> Tensor:
    """Bilinear as TensorFlow 1 did it: output k samples input k · in / out, no half-pixel shift.

    The Inception of 2015 has this resize in its graph; another one changes FID.
    """
    for axis in (2, 3):
        length = images.shape[axis]
        place = torch.arange(side, device=images.device, dtype=torch.float32) * (length / side)
        low = place.long()
        high = (low + 1).clamp(max=length - 1)
        share = (place - low).view([-1 if axis == d else 1 for d in range(4)])
        first, second = images.index_select(axis, low), images.index_select(axis, high)
        images = first + (second - first) * share
    return images


def _inception_2015(file: Path | None, device: torch.device) -> Inception2015:
    if file is not None and (scripted := _torchscript(file, device)) is not None:
        return Inception2015(scripted, None, weights_hash(scripted))
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        if file is not None:
            # torch-fidelity unpickles whatever the file holds; let only tensors get that far.
            torch.load(file, map_location="cpu", weights_only=True)
        net = NoTrainInceptionV3(
            "inception-v3-compat", ["2048"], None if file is None else str(file)
        )
    except ModuleNotFoundError as error:
        raise ExtractorError(
            "inception-2015 needs torch-fidelity (pip install torch-fidelity) or a TorchScript "
            "file of the network, given with --inception FILE"
        ) from error
    except OSError as error:
        raise ExtractorError(
            f"the weights of inception-2015 could not be fetched ({type(error).__name__}). Fetch "
            f"{INCEPTION_FILE} elsewhere and give it with --inception FILE"
        ) from error
    except Exception as error:
        raise ExtractorError(
            f"{file}: neither TorchScript nor the weights of inception-2015 "
            f"({type(error).__name__})"
        ) from error
    net = net.to(device)
    return Inception2015(_PoolOnly(net), net.fc.weight, weights_hash(net))


class _PoolOnly(nn.Module):
    """The layers of torch-fidelity's network behind its own resize and scaling."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        names = (
            "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1 Conv2d_3b_1x1 Conv2d_4a_3x3 "
            "MaxPool_2 Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e "
            "Mixed_7a Mixed_7b Mixed_7c AvgPool"
        )
        self.layers = nn.Sequential(*(getattr(net, name) for name in names.split()))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 299, 299) -> (B, 2048)."""
        return self.layers(pixels).flatten(1)


def _torchscript(file: Path, device: torch.device) -> nn.Module | None:
    """The network in a TorchScript file, or None if the file is something else."""
    try:
        with warnings.catch_warnings():
            # Deprecated, but what such networks are passed around as.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return torch.jit.load(file, map_location=device).eval()
    except (RuntimeError, ValueError):
        return None


def _torchvision_inception(file: Path | None, device: torch.device) -> TorchvisionInception:
    from torchvision.models import Inception_V3_Weights, inception_v3

    try:
        if file is None:
            network = inception_v3(weights=Inception_V3_Weights.IMAGENET1K_V1)
        else:
            network = inception_v3(weights=None, transform_input=True, init_weights=False)
            network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except OSError as error:
        raise ExtractorError(
            f"the weights of torchvision-imagenet could not be fetched ({type(error).__name__}). "
            f"Fetch {TORCHVISION_FILE} elsewhere and give it with --inception FILE"
        ) from error
    except Exception as error:
        raise ExtractorError(
            f"{file}: not the weights of torchvision's Inception-v3 ({type(error).__name__})"
        ) from error
    return TorchvisionInception(network.to(device).eval())
