"""frozen_statistics: norms of every make keep their statistics, and what they compute."""

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DataParallel

from alr_layers import frozen_statistics


class SynchronizedBatchNorm2d(_BatchNorm):
    """As home-made synchronized norms work: `track_running_stats` is never looked at.

    In one process torch's function gets the buffers as they are; in parallel ("master"), the
    moments are taken by hand and new tensors put in the buffers' place.
    """

    def __init__(self, features: int, parallel: bool = False) -> None:
        super().__init__(features)
        self.parallel = parallel

    def _check_input_dim(self, values: Tensor) -> None:
        assert values.dim() == 4

    def forward(self, values: Tensor) -> Tensor:
        if not (self.parallel and self.training):
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(
                values, mean, variance, self.weight, self.bias, self.training, self.momentum
            )
        mean = values.mean((0, 2, 3))
        variance = values.var((0, 2, 3), unbiased=False)
        kept = 1 - self.momentum
        self.running_mean = kept * self.running_mean + self.momentum * mean.detach()
        self.running_var = kept * self.running_var + self.momentum * variance.detach()
        scale = self.weight * (variance + self.eps).rsqrt()
        return (values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


class InPlaceNorm(nn.Module):
    """Statistics written in place, with a counter and a helper buffer of its own."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("helper", torch.zeros(features))
        self.running_var = nn.Parameter(torch.ones(features), requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        mean = values.mean((0, 2, 3))
        variance = values.var((0, 2, 3))
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(variance, 0.1)
                self.helper.add_(1)
        return (values - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]


class PlainAttributeNorm(nn.Module):
    """Statistics that are no buffers at all."""

    def __init__(self) -> None:
        super().__init__()
        self.running_mean = torch.zeros(4)

    def forward(self, values: Tensor) -> Tensor:
        self.running_mean = 0.9 * self.running_mean + 0.1 * values.detach().mean((0, 2, 3))
        return values - values.mean((0, 2, 3), keepdim=True)


class ParameterNorm(nn.Module):
    """Statistics that are parameters, as some re-implementations have them."""

    def __init__(self) -> None:
        super().__init__()
        self.running_mean = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        assert len(list(self.parameters())) == 1
        assert isinstance(self.running_mean, nn.Parameter)
        self.running_mean.lerp_(values.detach().mean((0, 2, 3)), 0.1)
        return values - values.mean((0, 2, 3), keepdim=True)


NORMS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "instance": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "sync, one process": lambda: SynchronizedBatchNorm2d(4),
    "sync, in parallel": lambda: SynchronizedBatchNorm2d(4, parallel=True),
    "in place": lambda: InPlaceNorm(4),
    "plain attribute": PlainAttributeNorm,
    "parameter": ParameterNorm,
}


def network(norm: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), NORMS[norm](), nn.Conv2d(4, 2, 1))


def statistics(net: nn.Module) -> dict[str, Tensor]:
    found = {name: value.clone() for name, value in net.state_dict().items()}
    return found | {
        f"{position}.{name}": value.clone()
        for position, part in enumerate(net)
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    }


def images(seed: int) -> Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed)) + seed


def assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("norm", NORMS)
def test_statistics_stay_and_values_do_not_change(norm):
    net, twin = network(norm), network(norm)
    net(images(1)), twin(images(1))
    before, tensors = statistics(net), dict(net.named_buffers())
    twin_values = twin(images(2))
    assert any(not torch.equal(value, before[name]) for name, value in statistics(twin).items())
    with frozen_statistics(net):
        values = net(images(2))
    assert torch.equal(values, twin_values)
    assert_same(statistics(net), before)
    assert all(value is tensors[name] for name, value in net.named_buffers())
    assert list(net.state_dict()) == list(twin.state_dict())


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_passes_in_before_and_after_the_block(norm):
    """One backward through three passes: nothing that autograd has seen was written to."""
    net, twin = network(norm), network(norm)

    def gradients(which: nn.Module, frozen: bool) -> list[Tensor]:
        loss = which(images(1)).square().mean()
        with frozen_statistics(which) if frozen else contextlib.nullcontext():
            loss = loss + which(images(2)).square().mean()
        loss = loss + which(images(3)).square().mean()
        learning = [parameter for parameter in which.parameters() if parameter.requires_grad]
        return list(torch.autograd.grad(loss, learning))

    assert all(map(torch.equal, gradients(net, True), gradients(twin, False)))
    one_less = network(norm)
    one_less(images(1)), one_less(images(3))
    assert_same(statistics(net), statistics(one_less))


@pytest.mark.parametrize("norm", ["batch", "instance", "sync, in parallel"])
def test_evaluation_normalises_by_the_running_statistics(norm):
    net = network(norm)
    net(images(3))
    net.eval()
    wanted = net(images(1))
    with frozen_statistics(net):
        assert torch.equal(net(images(1)), wanted)


def test_nested_blocks_and_errors_put_everything_back():
    net = network("batch")
    before = statistics(net)
    with pytest.raises(KeyError), frozen_statistics(net):
        with frozen_statistics(net):
            net(images(1))
        net(images(2))
        raise KeyError
    assert_same(statistics(net), before)
    net(images(1))
    assert int(net[1].num_batches_tracked) == 1


def test_wrapped_networks():
    for wrap in (DataParallel, nn.Sequential, copy.deepcopy):
        net = wrap(network("batch"))
        before = copy.deepcopy(net.state_dict())
        with frozen_statistics(net):
            net(images(1))
        assert_same(net.state_dict(), before)


@pytest.mark.parametrize("norm", ["batch", "sync, in parallel", "in place"])
def test_compiled_networks(norm):
    torch._dynamo.reset()
    net, twin = network(norm), network(norm)
    compiled = torch.compile(net, backend="aot_eager")
    for seed in (1, 2):
        torch.testing.assert_close(compiled(images(seed)), twin(images(seed)))
        before = statistics(net)
        with frozen_statistics(compiled):
            compiled(images(seed + 5))
        assert_same(statistics(net), before)
    for name, value in statistics(twin).items():
        torch.testing.assert_close(before[name], value)
    torch._dynamo.reset()


def test_the_block_may_be_compiled_with_what_it_holds():
    torch._dynamo.reset()
    net = network("batch")

    @torch.compile(backend="aot_eager")
    def decode(values: Tensor) -> Tensor:
        with frozen_statistics(net):
            return net(values)

    before = statistics(net)
    torch.testing.assert_close(decode(images(1)), network("batch")(images(1)))
    assert_same(statistics(net), before)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:Converting a tensor")
def test_what_is_no_module_or_cannot_be_frozen_is_named():
    with pytest.raises(TypeError, match=r"module is a str, expected a torch\.nn\.Module"):
        frozen_statistics("net").__enter__()
    scripted = torch.jit.trace(nn.BatchNorm2d(4), images(1), check_trace=False)
    with pytest.raises(TypeError, match="TorchScript BatchNorm2d with running statistics"):
        frozen_statistics(scripted).__enter__()
    plain = torch.jit.trace(nn.Conv2d(4, 2, 1), images(1), check_trace=False)
    with frozen_statistics(plain):
        assert plain(images(1)).shape == (3, 2, 5, 5)
