"""Batch norms that see the batch of all ranks: how many there are changes nothing learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.training.distributed import World, sum_over_ranks


def synchronise(network: nn.Module, world: World) -> None:
    """Let every batch norm inside `network` normalise by the batch of all ranks, in training.

    Weights, buffers and names stay, so that checkpoints and optimisers know no difference. On a GPU
    the norms become torch's `SyncBatchNorm`, which runs nowhere else; on a CPU `GlobalBatchNorm`.
    All ranks must pass the network forward and backward as often as one another, with as many rows.
    """
    if world.size == 1:
        return
    if world.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, GlobalBatchNorm(child, world))


class GlobalBatchNorm(_BatchNorm):
    """A batch norm over the rows of all ranks, differentiable, on any device.

    Two sums over the ranks, of the values and of their squared distances from the mean: the
    difference of the mean square and the squared mean would lose the digits of a small variance.

    Args:
        norm: the one it takes the place of; its parameters and buffers are taken over.
        world: the ranks.
    """

    def __init__(self, norm: _BatchNorm, world: World) -> None:
        if norm.momentum is None or norm.running_mean is None:
            raise ValueError(f"{norm}: only norms with running statistics of a fixed momentum")
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, affine=False, device=torch.device("meta")
        )
        self.affine = norm.affine
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.world = world
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape; in evaluation by the running statistics, as ever."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        values = input if input.dtype == torch.float64 else input.float()
        others = [dim for dim in range(input.dim()) if dim != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = values.numel() // values.shape[1] * self.world.size
        mean = sum_over_ranks(values.sum(others), self.world) / count
        centred = values - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(others), self.world) / count
        self._follow(mean.detach(), variance.detach() * (count / (count - 1)))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, with the variance of the population, as torch does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)
