"""E1-E12 written down as they are printed, for comparison only.

Every tensor of the formulae exists: the scores as (B, N, T), the residuals and h* padded to K
channels, φ on all of them, the masked features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from alr_layers import ALRLoss, ALRModule, LVRLoss
from alr_layers.alr import WeightStack


def _layout(h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    scores = h.flatten(2).transpose(1, 2) @ words
    padded = torch.arange(words.shape[2], device=h.device) >= lengths[:, None]
    return scores.masked_fill(padded[:, None], -torch.inf).softmax(2)


def _gram(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.norm(x.flatten(1), dim=1)


def _weights(phi: WeightStack, x: Tensor) -> Tensor:
    """φ as plain modules: the library's own forward pass knows better for a CPU."""
    return torch.sigmoid(phi.second(F.leaky_relu(phi.first(x), 0.2)))


def loss_path(
    h: Tensor,
    real: Tensor,
    words: Tensor,
    lengths: Tensor,
    module: ALRModule,
    alr: ALRLoss,
    lvr: LVRLoss,
) -> tuple[Tensor, ...]:
    """(L_ALR + L_LVR, context), by the formulae and with the parameters of the modules."""
    batch, dim, height, width = h.shape
    projected = module.word_projection(words)
    theta = _layout(h, projected, lengths)
    context = (theta @ projected.transpose(1, 2)).transpose(1, 2).reshape(h.shape)
    real_theta = _layout(real, projected, lengths).detach()

    residual = (real_theta - theta).abs().transpose(1, 2).reshape(batch, -1, height, width)
    zero = torch.zeros_like(residual)
    easy = torch.where(residual < alr.gamma, residual, zero)
    hard = torch.where(residual >= alr.gamma, residual, zero)
    channels = max(dim, words.shape[2])
    easy, hard, padded_real = (
        F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1])) for x in (easy, hard, real)
    )
    alpha = _weights(alr.phi_easy, easy * padded_real)
    beta = _weights(alr.phi_hard, hard * padded_real)
    order = F.softplus(alpha.flatten(1).amax(1) - beta.flatten(1).amin(1))
    scale = 1 / (height * width * dim)
    alr_loss = (scale * (_norm(alpha * easy) + _norm(beta * hard) + order)).mean()

    seen = (theta.amax(2)[:, None] * h.flatten(2)).float()
    real_seen = (real_theta.amax(2)[:, None] * real.flatten(2)).float()
    perception = _norm(seen - real_seen)
    style = _norm(_gram(seen) - _gram(real_seen))
    return alr_loss.float() + (scale * (perception + style)).mean(), context
