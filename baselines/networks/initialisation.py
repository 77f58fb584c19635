"""How the weights of generators and discriminators start, as AttnGAN's `weights_init`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
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
            orthogonal_(child.weight)
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)
        if isinstance(child, _BatchNorm):
            nn.init.normal_(child.weight, 1.0, 0.02)
            nn.init.zeros_(child.bias)


@torch.no_grad()
def orthogonal_(weight: Tensor) -> None:
    """`torch.nn.init.orthogonal_` with gain 1, several times as fast for large convolutions.

    A QR decomposition of the transpose with a positive diagonal of R is unique, so where the
    Gaussian matrix is far from square, hence well conditioned, a Cholesky decomposition of its
    small Gram matrix gives the same result from fast matrix products.
    """
    matrix = weight.flatten(1)
    rows, columns = matrix.shape
    if max(rows, columns) < 4 * min(rows, columns):
        nn.init.orthogonal_(weight)
        return
    wide = torch.randn_like(matrix if rows < columns else matrix.t())
    factor = torch.linalg.cholesky(wide @ wide.t())
    wide = torch.linalg.solve_triangular(factor, wide, upper=False)
    weight.copy_((wide if rows < columns else wide.t()).view_as(weight))
