"""How the weights of generators and discriminators start (baselines_spec 5.5)."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def initialise(module: nn.Module) -> None:
    """Orthogonal convolutions and linear maps, batch-norm scales around one.

    Every convolution (flattened to out x rest) and Linear weight is orthogonal with gain 1, batch
    norm weights are N(1, 0.02) with bias 0, Linear biases 0. Convolution biases keep
    PyTorch's default. Call it before spectral normalisation, whose vectors are then fitted to
    the weights that training starts from.
    """
    for child in module.modules():
        if isinstance(child, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(child.weight)
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)
        if isinstance(child, _BatchNorm):
            nn.init.normal_(child.weight, 1.0, 0.02)
            nn.init.zeros_(child.bias)
