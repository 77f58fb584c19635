"""The networks behind the extractors: two Inceptions, a classifier of birds, DINOv2."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.metrics.extractors import ExtractorError, Features, weights_hash
from baselines.metrics.features import Provenance
from baselines.pictures.grids import to_bytes

INCEPTION_SIDE, INCEPTION_DIM = 299, 2048
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
TORCHVISION_FILE = "inception_v3_google-0cc3c7bd.pth"
DINO_SIDE, DINO_NAME = 224, "vit_large_patch14_dinov2.lvd142m"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Inception2015:
    """The standard FID Inception.

    Args:
        network: takes (B, 3, 299, 299) in [-1, 1) and gives (B, 2048) pool3 features.
        classifier: weight (C, 2048) of the classifier, None where there is none.
        weights: hash of the network.
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
        self.classifier = network.get_submodule("fc")
        network.fc = nn.Identity()
        self.network = network

    def __call__(self, images: Tensor) -> Features:
        """Features of (B, 3, H, W) images in [-1, 1]."""
        pixels = _resized(to_bytes(images).float() / 255, INCEPTION_SIDE, "bilinear")
        pooled = self.network(pixels)
        return Features(pooled, self.classifier(pooled))


class CubClassifier:
    """A classifier of CUB's birds, from whose logits IS* is computed.

    Args:
        network: TorchScript; takes (B, 3, 299, 299) in [-1, 1] and gives (B, C) logits.
        weights: hash of the network.
    """

    has_classifier = True

    def __init__(self, network: nn.Module, weights: str) -> None:
        self.network, self.dimension = network, 0
        self.provenance = Provenance("cub-classifier", weights, "8 bit, bilinear to 299, [-1, 1]")

    def __call__(self, images: Tensor) -> Features:
        """Logits of (B, 3, H, W) images in [-1, 1], which stand for the features too."""
        pixels = _resized(to_bytes(images).float() / 127.5 - 1, INCEPTION_SIDE, "bilinear")
        logits = self.network(pixels)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ExtractorError("the file of cub-classifier must give (B, C) logits")
        self.dimension = logits.shape[1]
        return Features(logits, logits)


class DinoV2:
    """DINOv2's ViT-L/14: its normalised class token, for FD-DINOv2.

    Args:
        network: timm's, takes (B, 3, 224, 224) normalised as ImageNet, gives (B, 1024).
        weights: hash of the network.
    """

    has_classifier = False

    def __init__(self, network: nn.Module, weights: str) -> None:
        self.network, self.dimension = network, network.num_features
        self.provenance = Provenance(
            "dinov2", weights, f"8 bit, bicubic to {DINO_SIDE}, ImageNet-normalised"
        )

    def __call__(self, images: Tensor) -> Features:
        """Features of (B, 3, H, W) images in [-1, 1]."""
        pixels = _resized(to_bytes(images).float() / 255, DINO_SIDE, "bicubic").clamp(0, 1)
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return Features(self.network((pixels - mean) / std), None)


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


def open_inception_2015(file: Path | None, device: torch.device) -> Inception2015:
    """Open the Inception of 2015: a file of weights or of TorchScript, or torch-fidelity's."""
    if file is not None and (scripted := torchscript(file, device)) is not None:
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
            "file of the network, given with --weights inception-2015=FILE"
        ) from error
    except OSError as error:
        raise ExtractorError(
            f"the weights of inception-2015 could not be fetched ({type(error).__name__}). Fetch "
            f"{INCEPTION_FILE} elsewhere and give it with --weights inception-2015=FILE"
        ) from error
    except Exception as error:
        raise ExtractorError(
            f"{file}: neither TorchScript nor the weights of inception-2015 "
            f"({type(error).__name__})"
        ) from error
    net = net.to(device)
    trunk = _PoolOnly(net)
    return Inception2015(trunk, net.fc.weight, weights_hash(trunk))


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


def torchscript(file: Path, device: torch.device) -> nn.Module | None:
    """The network in a TorchScript file, or None if the file is something else."""
    try:
        with warnings.catch_warnings():
            # Deprecated, but what such networks are passed around as.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return torch.jit.load(file, map_location=device).eval()
    except (RuntimeError, ValueError):
        return None


def open_torchvision(file: Path | None, device: torch.device) -> TorchvisionInception:
    """Open torchvision's Inception-v3, from a file or by its usual download."""
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
            f"Fetch {TORCHVISION_FILE} elsewhere and give it with --weights "
            "torchvision-imagenet=FILE"
        ) from error
    except Exception as error:
        raise ExtractorError(
            f"{file}: not the weights of torchvision's Inception-v3 ({type(error).__name__})"
        ) from error
    return TorchvisionInception(network.to(device).eval())


def open_cub_classifier(file: Path | None, device: torch.device) -> CubClassifier:
    """Open the classifier of birds, which has no usual download."""
    if file is None:
        raise ExtractorError(
            "cub-classifier has no usual download: give a TorchScript file of a classifier with "
            "--weights cub-classifier=FILE"
        )
    network = torchscript(file, device)
    if network is None:
        raise ExtractorError(f"{file}: cub-classifier needs a TorchScript file")
    return CubClassifier(network, weights_hash(network))


def open_dinov2(file: Path | None, device: torch.device) -> DinoV2:
    """Open DINOv2's ViT-L/14 of timm, from a file or by its usual download."""
    import timm

    overlay = {} if file is None else {"file": str(file)}
    try:
        network = timm.create_model(
            DINO_NAME, pretrained=True, num_classes=0, img_size=DINO_SIDE,
            pretrained_cfg_overlay=overlay,
        )  # fmt: skip
    except OSError as error:
        raise ExtractorError(
            f"the weights of dinov2 could not be fetched ({type(error).__name__}). Fetch timm's "
            f"{DINO_NAME} elsewhere and give it with --weights dinov2=FILE"
        ) from error
    except Exception as error:
        raise ExtractorError(
            f"{file}: not the weights of timm's {DINO_NAME} ({type(error).__name__})"
        ) from error
    return DinoV2(network.to(device).eval(), weights_hash(network))


def _resized(pixels: Tensor, side: int, mode: str) -> Tensor:
    return F.interpolate(pixels, (side, side), mode=mode, align_corners=False, antialias=True)
