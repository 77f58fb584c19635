"""TermBalance: the shares asked for, steps that change nothing, bad gradients, resuming, half."""

import copy
import logging
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import alr_layers
from alr_layers import TermBalance


def quadratic(h: Tensor, weight: float) -> Tensor:
    return weight * h.square().sum()


def norm_at(loss: Tensor, h: Tensor) -> float:
    return float(torch.autograd.grad(loss, h, retain_graph=True)[0].norm())


def features(seed: int = 0, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, size, generator=generator, dtype=torch.float64).requires_grad_()


@given(st.floats(1e-5, 1e5), st.floats(1e-5, 1e5), st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_a_share_is_reached_whatever_the_sizes(host_size, term_size, first, second):
    h = features()
    host = host_size * h.sin().sum()
    terms = {"alr": quadratic(h, term_size), "lvr": term_size * h.exp().mean()}
    balance = TermBalance(alr=first, lvr=second)
    (weighted,) = balance.weighted(host, terms, at=h, step=0)
    for name, share in (("alr", first), ("lvr", second)):
        assert norm_at(weighted[name], h) == pytest.approx(share * norm_at(host, h), rel=1e-5)
        assert balance.report()[name]["ratio"] == pytest.approx(
            norm_at(terms[name], h) / norm_at(host, h), rel=1e-5
        )


def test_forward_is_the_host_and_the_weighted_terms():
    h = features()
    host, terms = h.sum(), {"alr": quadratic(h, 1e-6), "other": quadratic(h, 2.0)}
    balance = TermBalance(alr=0.1, weights={"other": 3.0})
    total = balance(host, terms, at=h, step=0)
    (weighted,) = balance.weighted(host, terms, at=h, step=0)
    assert total == host + weighted["alr"] + weighted["other"]
    assert weighted["other"] == 3 * terms["other"]


class Undifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h: Tensor) -> Tensor:
        return h.sum()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        raise AssertionError("this term must not be differentiated")


def test_before_its_start_a_term_does_not_exist():
    h = features()
    host = h.sum()
    balance = TermBalance(alr=0.1, start=5)
    total = balance(host, {"alr": Undifferentiable.apply(h)}, at=h, step=4)
    assert total is host
    total.backward()
    assert torch.equal(h.grad, torch.ones_like(h))
    assert math.isnan(balance.report()["alr"]["ratio"])


@pytest.mark.parametrize(
    ("step", "wanted"), [(0, 0), (2, 0), (3, 0.25), (4, 0.5), (6, 1), (1000, 1)]
)
def test_ramp(step, wanted):
    balance = TermBalance(alr=1, start=3, ramp=4, weights={"alr": 2})
    assert balance.weight("alr", step) == 2 * wanted
    assert balance.weight("unnamed", step) == wanted
    by_term = TermBalance(alr=1, start={"alr": 3}, ramp={"alr": 4})
    assert by_term.weight("alr", step) == wanted
    assert by_term.weight("unnamed", step) == 1


def test_measures_every_so_many_steps_and_once_a_step():
    h = features()
    host = h.sum()
    balance = TermBalance(alr=0.1, every=4, start=2)
    scales = []
    for step in range(12):
        for part in range(2):  # two micro-batches of one step
            balance(host, {"alr": quadratic(h, 1.0 + 10 * step + part)}, at=h, step=step)
        scales.append(balance.report()["alr"]["scale"])
    changed = [step for step in range(1, 12) if scales[step] != scales[step - 1]]
    assert changed == [2, 3, 5, 9], "after 1, 2, 4 steps, and then every 4"
    assert scales[3] / scales[2] == pytest.approx(21 / ((21 + 31) / 2)), "their mean"


def test_a_scale_falls_at_once_and_reaches_what_lasts():
    h = features()
    balance = TermBalance(alr=0.1, every=1)
    for step in range(40):
        balance(h.sum(), {"alr": quadratic(h, 1.0)}, at=h, step=step)
    before = balance.report()["alr"]["scale"]
    balance(h.sum(), {"alr": quadratic(h, 16.0)}, at=h, step=40)
    assert balance.report()["alr"]["scale"] == pytest.approx(before / (0.75 + 16 / 4))
    for step in range(41, 60):
        balance(h.sum(), {"alr": quadratic(h, 16.0)}, at=h, step=step)
    assert balance.report()["alr"]["scale"] == pytest.approx(before / 16, rel=0.05)


def test_a_share_of_zero_keeps_the_scale_one():
    h = features()
    terms = {"alr": quadratic(h, 1.0), "reconstruction": quadratic(h, 1.0)}
    balance = TermBalance(alr=0.1, reconstruction=0.0)
    (weighted,) = balance.weighted(h.sum(), terms, at=h, step=0)
    assert weighted["reconstruction"] == terms["reconstruction"]
    assert balance.report()["reconstruction"]["scale"] == 1


def test_an_anchor_stands_in_for_features_that_a_term_does_not_reach():
    h, head = features(), torch.ones(6, dtype=torch.float64, requires_grad=True)
    host = (h * head).sum()
    terms = {"alr": quadratic(h, 1e-5), "reconstruction": (3 * head).square().sum()}
    balance = TermBalance(alr=0.1, reconstruction=0.5)
    (weighted,) = balance.weighted(host, terms, at=h, step=0, anchors={"reconstruction": head})
    assert norm_at(weighted["reconstruction"], head) == pytest.approx(0.5 * norm_at(host, head))
    assert norm_at(weighted["alr"], h) == pytest.approx(0.1 * norm_at(host, h))


def two_stages() -> tuple[list[Tensor], Tensor, list[dict[str, Tensor]]]:
    first = features(0, 4)
    second = torch.cat([first, 2 * first], 1)
    host = second.sin().sum() + first.sum()
    return [first, second], host, [{"alr": quadratic(first, 1e-5)}, {"alr": quadratic(second, 7.0)}]


def test_stages_have_scales_of_their_own():
    at, host, terms = two_stages()
    balance = TermBalance(alr=0.2)
    for h, weighted in zip(at, balance.weighted(host, terms, at=at, step=0), strict=True):
        assert norm_at(weighted["alr"], h) == pytest.approx(0.2 * norm_at(host, h))
    assert list(balance.report()) == ["stage1/alr", "stage2/alr"]


class Counted(torch.autograd.Function):
    """The identity, which counts how often a gradient passes it."""

    @staticmethod
    def forward(ctx, value: Tensor, passes: list[int]) -> Tensor:
        ctx.passes = passes
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        ctx.passes[0] += 1
        return grad, None


def test_one_backward_pass_of_the_host_serves_all_stages_and_anchors():
    """The host's loss runs through discriminators and encoders: its passes are what is dear."""
    first, heads = features(), [features(seed, 6) for seed in (1, 2)]
    second = first.tanh()
    passes = [0]
    host = Counted.apply((second * heads[0]).sum() + (second.square() * heads[1]).sum(), passes)
    at = [first, second]
    terms = [
        {"alr": quadratic(h, size), "reconstruction": quadratic(head, 2.0), "free": h.sum()}
        for h, size, head in zip(at, (1.0, 7.0), heads, strict=True)
    ]
    anchors = [{"reconstruction": head} for head in heads]
    expected = [
        {
            "host": norm_at(host, h),
            "alr": norm_at(of_stage["alr"], h),
            "reconstruction": norm_at(of_stage["reconstruction"], head),
            "free": norm_at(of_stage["free"], h),
        }
        for h, of_stage, head in zip(at, terms, heads, strict=True)
    ]
    passes[0] = 0
    balance = TermBalance(alr=0.1, reconstruction=0.5)
    norms = balance.measure(host, terms, at=at, step=0, anchors=anchors)
    assert passes == [1]
    assert norms == [pytest.approx(stage) for stage in expected]
    (first_scales, second_scales) = balance.weighted(host, terms, at=at, step=1, anchors=anchors)
    for scaled, head in ((first_scales, heads[0]), (second_scales, heads[1])):
        asked = 0.5 * norm_at(host, head)
        assert norm_at(scaled["reconstruction"], head) == pytest.approx(asked)


def test_one_mapping_may_be_compared_at_several_tensors_together():
    at, host, terms = two_stages()
    balance = TermBalance(alr=0.2)
    (weighted,) = balance.weighted(host, {"alr": terms[1]["alr"]}, at=at, step=0)

    def joint(loss: Tensor) -> Tensor:
        gradients = torch.autograd.grad(loss, at, retain_graph=True)
        return torch.cat([gradient.flatten() for gradient in gradients]).norm()

    torch.testing.assert_close(joint(weighted["alr"]), 0.2 * joint(host))


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, 1e-30])
def test_gradients_of_no_use_leave_the_scale(bad, caplog):
    h = features()
    host, good = h.sum(), {"alr": quadratic(h, 1.0)}
    spoilt = {"alr": (h * bad).sum()}
    balance = TermBalance(alr=0.1, every=1)
    assert balance(host, spoilt, at=h, step=0).isfinite() == math.isfinite(bad)
    assert balance.report()["alr"]["scale"] == 0
    balance(host, good, at=h, step=1)
    kept = balance.report()["alr"]["scale"]
    balance(host, spoilt, at=h, step=2)
    balance(host, spoilt, at=h, step=3)
    assert balance.report()["alr"]["scale"] == kept > 0
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2, "once when it begins, once when it comes back"
    assert "its scale stays as it was" in warnings[0].getMessage()


@pytest.mark.parametrize("bad", [0.0, math.nan])
def test_a_host_without_gradient_leaves_the_scale(bad):
    h = features()
    terms = {"alr": quadratic(h, 1.0)}
    balance = TermBalance(alr=0.1, every=1)
    balance(h.sum(), terms, at=h, step=0)
    kept = balance.report()["alr"]["scale"]
    balance((bad * h).sum(), terms, at=h, step=1)
    assert balance.report()["alr"]["scale"] == kept > 0


def test_it_says_what_it_measured(caplog):
    h = features()
    host, terms = h.sum(), {"alr": 6e-8 * h.sum()}
    balance = TermBalance(alr=0.05, every=1)
    with caplog.at_level(logging.INFO, "alr_layers"):
        for step in range(5):
            balance(host, terms, at=h, step=step)
        assert [record.getMessage() for record in caplog.records] == [
            "alr is 6e-08 of the host's gradient; scaled by 8.33e+05 to 0.05 of it"
        ]
        for step in range(5, 9):
            balance(host, {"alr": 6e-6 * h.sum()}, at=h, step=step)
    assert len(caplog.records) > 1, "news"


def test_norms_for_the_log_change_nothing_unless_due():
    h = features()
    host, terms = h.sum(), {"alr": quadratic(h, 1.0), "free": features(3).sum()}
    balance = TermBalance(alr=0.1, every=8)
    for step in (0, 1, 3, 7):
        balance(host, {**terms}, at=h, step=step)
    (norms,) = balance.measure(host, terms, at=h, step=15)
    assert norms == pytest.approx(
        {"host": norm_at(host, h), "alr": norm_at(terms["alr"], h), "free": 0}
    )
    scale = balance.report()["alr"]["scale"]
    assert scale == pytest.approx(0.1 * norms["host"] / norms["alr"])
    (norms,) = balance.measure(host, {"alr": quadratic(h, 5.0)}, at=h, step=18)
    assert norms["alr"] == pytest.approx(norm_at(quadratic(h, 5.0), h))
    assert balance.report()["alr"]["scale"] == scale


class Host(nn.Module):
    """A generator whose added term is far smaller than its own loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def losses(self, step: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        generator = torch.Generator().manual_seed(step)
        h = self.body(torch.randn(5, 4, generator=generator)).tanh()
        terms = {"alr": 1e-6 * (h - 0.3).square().mean(), "lvr": 1e-2 * h.exp().mean()}
        return self.head(h).square().mean(), terms, h


def train(host: Host, balance: TermBalance, steps: range) -> None:
    optimizer = torch.optim.SGD(host.parameters(), lr=0.1)
    for step in steps:
        loss, terms, h = host.losses(step)
        optimizer.zero_grad()
        balance(loss, terms, at=h, step=step).backward()
        optimizer.step()


def test_resuming_is_exact():
    def build() -> tuple[Host, TermBalance]:
        return Host(), TermBalance(alr=0.3, lvr=0.2, every=4, start={"lvr": 3}, ramp=5)

    straight = build()
    train(*straight, range(14))
    first, second = build(), build()
    train(*first, range(6))
    for before, after in zip(first, second, strict=True):
        after.load_state_dict(before.state_dict())
    train(*second, range(6, 14))
    for ours, wanted in zip(second, straight, strict=True):
        for name, value in wanted.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def test_state_of_several_stages_loads_into_a_fresh_balance():
    at, host, terms = two_stages()
    balance, fresh = TermBalance(alr=0.2), TermBalance(alr=0.2)
    balance(host, terms, at=at, step=0)
    fresh.load_state_dict(balance.state_dict())
    assert fresh.report() == balance.report()
    with pytest.raises(ValueError, match=r"terms has 1 stage\(s\), TermBalance holds scales of 2"):
        fresh(host, terms[0], at=at[0], step=1)


def test_scales_saved_without_their_step_are_measured_anew():
    at, host, terms = two_stages()
    balance = TermBalance(alr=0.2)
    balance.load_state_dict({"alr": torch.tensor([3.0, 4.0])})
    balance(host, terms, at=at, step=7)
    assert balance.report()["stage1/alr"]["scale"] != 3


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_go_on_by_themselves(twin):
    h = features()
    balance = TermBalance(alr=0.1)
    balance(h.sum(), {"alr": quadratic(h, 1.0)}, at=h, step=0)
    copied = twin(balance)
    copied(h.sum(), {"alr": quadratic(h, 4.0)}, at=h, step=1)
    assert copied.report()["alr"]["scale"] == pytest.approx(balance.report()["alr"]["scale"] / 2.5)


def test_moving_to_half_keeps_a_scale_beyond_its_range():
    h = features()
    balance = TermBalance(alr=0.1).half()
    balance(h.sum(), {"alr": quadratic(h, 1e-9)}, at=h, step=0)
    scale = balance.report()["alr"]["scale"]
    assert balance.half().report()["alr"]["scale"] == scale > 1e6


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0, 1e3])
def test_half_precision_neither_vanishes_nor_overflows(size):
    """With h in float16, gradients of 1e-9 are zero there, and of 1e6 infinite, unless scaled."""
    wide = torch.linspace(1, 2, 8, requires_grad=True)
    h = wide.half()
    h.retain_grad()
    host, term = (h.float() * 1e-4).sum(), (h.float().square() * size).sum()
    balance = TermBalance(alr=0.5)
    balance(host, {"alr": term}, at=h, step=0)
    wanted = 0.5 * (1e-4 * 8**0.5) / (2 * size * wide.detach().norm().item())
    assert balance.report()["alr"]["scale"] == pytest.approx(wanted, rel=2e-2)


def test_measuring_leaves_no_gradient_behind():
    host = Host()
    loss, terms, h = host.losses(0)
    balance = TermBalance(alr=0.1, lvr=0.1)
    total = balance(loss, terms, at=h, step=0)
    assert all(parameter.grad is None for parameter in host.parameters())
    total.backward(retain_graph=True)
    total.backward()


def test_without_gradients_the_last_scales_are_used():
    h = features()
    balance = TermBalance(alr=0.1, every=1)
    terms = {"alr": quadratic(h, 1.0)}
    wanted = balance(h.sum(), terms, at=h, step=0)
    with torch.no_grad():
        assert balance(h.sum(), {"alr": quadratic(h, 1.0)}, at=h, step=1) == wanted


def test_the_host_may_be_compiled():
    host = Host()
    compiled = torch.compile(host.head, backend="aot_eager", fullgraph=True)
    loss, terms, h = host.losses(0)
    balance, twin = TermBalance(alr=0.1, lvr=0.1), TermBalance(alr=0.1, lvr=0.1)
    balance(compiled(h).square().mean(), terms, at=h, step=0)
    twin(loss, terms, at=h, step=0)
    torch.testing.assert_close(balance.state_dict(), twin.state_dict())
    torch._dynamo.reset()


def test_donated_buffers_are_refused_by_name(monkeypatch):
    def grad(*args: object, **kwargs: object) -> None:
        raise RuntimeError("This backward function was compiled with non-empty donated buffers")

    monkeypatch.setattr(torch.autograd, "grad", grad)
    h = features()
    with pytest.raises(RuntimeError, match=r"donated_buffer = False before the host is first run"):
        TermBalance(alr=0.1)(h.sum(), {"alr": quadratic(h, 1.0)}, at=h, step=0)


def test_printed_form():
    assert repr(alr_layers.TermBalance(alr=0.05, start=3)) == (
        "TermBalance(alr=0.05, start=3, ramp=0, every=16)"
    )
