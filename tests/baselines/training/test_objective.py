import copy
import dataclasses

import pytest
import torch
from torch import nn

from baselines.config import OptimConfig, RefineConfig, TermConfig
from baselines.data.loader import training_loader
from baselines.data.scenes import Scenes
from baselines.refinement.balance import TermBalance, gradient_norm, ramped_weight
from baselines.refinement.objective import RefinedObjective, frozen_statistics
from baselines.runs import load_encoders
from baselines.train import build_objective
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from baselines.training.objective import AveragedNetwork
from tests.support.tiny_run import tiny_config

SCALER = torch.amp.GradScaler("cpu", enabled=False)


@pytest.fixture
def setting(encoders):
    loaded = load_encoders(encoders)
    source = Scenes("train", images=16, max_objects=2)
    batches = iter(
        training_loader(source, loaded.vocabulary, size=32, max_words=18, batch_size=4, seed=0)
    )
    return loaded, next(batches)


def objective_of(loaded, **refine):
    config = tiny_config("attngan")
    config = dataclasses.replace(config, encoder=loaded.config)
    if refine:
        config = dataclasses.replace(config, refine=RefineConfig(terms="alr,lvr", **refine))
    return build_objective(config, loaded, World())


def flat(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_every_phase_moves_its_own_network_alone(setting):
    loaded, batch = setting
    objective = objective_of(loaded, decode="stage")
    networks = {"D16": objective.discriminators[0], "D32": objective.discriminators[1]}
    networks |= {"G": objective.net, "text": loaded.text, "image": loaded.image}
    step = objective.begin(batch, 1)
    for phase in objective.phases:
        before = {name: flat(network) for name, network in networks.items()}
        run_phase(phase, objective.phases, [step], SCALER, World())
        moved = {name for name, net in networks.items() if not torch.equal(before[name], flat(net))}
        assert moved == {phase.name}
        others = [net for name, net in networks.items() if name != phase.name]
        assert all(p.grad is None for net in others[3:] for p in net.parameters())


def test_discriminators_collect_no_gradient_in_the_generator_phase(setting):
    loaded, batch = setting
    objective = objective_of(loaded)
    step = objective.begin(batch, 1)
    run_phase(objective.phases[-1], objective.phases, [step], SCALER, World())
    assert all(p.grad is None for p in objective.discriminators.parameters())
    assert all(p.requires_grad for p in objective.discriminators.parameters())


def test_generator_total_is_the_weighted_sum_of_its_terms(setting):
    loaded, batch = setting
    terms = {"alr": 2.0, "reconstruction": 3.0, "lvr": 0.5}
    refine = {name: TermConfig(weight=weight) for name, weight in terms.items()}
    objective = objective_of(loaded, **refine)
    loss = objective.generator_loss(objective.begin(batch, 1))
    alr = sum(loss[f"stage1/{name}"] for name in ("easy", "hard", "order"))
    lvr = loss["stage1/perception"] + loss["stage1/style"]
    expected = loss["adversarial_16"] + loss["adversarial_32"] + loss["kl"]
    expected = expected + 5 * (loss["damsm_words"] + loss["damsm_sentence"])
    expected = expected + 2 * alr + 3 * loss["stage1/reconstruction"] + 0.5 * lvr
    torch.testing.assert_close(loss["total"], expected)


@pytest.mark.parametrize("decode", ["head", "stage"])
def test_both_readings_of_the_decoder_train_their_encoder(decode, setting):
    loaded, batch = setting
    objective = objective_of(loaded, decode=decode)
    assert isinstance(objective, RefinedObjective)
    before = flat(objective.refinements[0].encoder)
    step = objective.begin(batch, 1)
    run_phase(objective.phases[-1], objective.phases, [step], SCALER, World())
    assert not torch.equal(before, flat(objective.refinements[0].encoder))


def test_real_features_leave_no_trace_in_running_statistics(setting):
    loaded, batch = setting
    host, refined = objective_of(loaded), objective_of(loaded, decode="stage")
    for objective in (host, refined):
        objective.generator_loss(objective.begin(batch, 1))
    for (name, a), b in zip(host.net.named_buffers(), refined.net.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_frozen_statistics_still_normalise_by_the_batch():
    norm = nn.BatchNorm1d(3)
    x = torch.randn(8, 3) * 5 + 2
    with frozen_statistics(norm):
        y = norm(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert torch.equal(norm.running_mean, torch.zeros(3)) and norm.num_batches_tracked == 0
    norm(x)
    assert norm.num_batches_tracked == 1


def test_share_of_the_hosts_gradient_is_kept(setting):
    loaded, batch = setting
    share = {"alr": TermConfig(share=0.25), "lvr": TermConfig(share=0.5)}
    share["reconstruction"] = TermConfig(share=0.125)
    objective = objective_of(loaded, normalization="rms", **share)
    step = objective.begin(batch, 1)
    objective.generator_loss(step)  # step 1 is a term's first: it is measured
    host = objective.host_terms(step)
    weights = {"damsm_words": 5.0, "damsm_sentence": 5.0}
    host_loss = sum(weights.get(name, 1.0) * term for name, term in host.items())
    details, _ = objective.stage_terms(objective.refinements[0], 1, step)
    features, head = step.fake.features[0], objective.decoder_weight(1)
    alr = details["easy"] + details["hard"] + details["order"]
    lvr = details["perception"] + details["style"]
    for name, term, at, wanted in (
        ("alr", alr, features, 0.25),
        ("lvr", lvr, features, 0.5),
        ("reconstruction", details["reconstruction"], head, 0.125),
    ):
        scaled = objective.balance.scale(name, 0) * gradient_norm(term, at)
        torch.testing.assert_close(scaled / gradient_norm(host_loss, at), torch.tensor(wanted))


def test_a_term_without_gradient_gets_no_weight():
    balance = TermBalance({"alr": 0.5}, 1, World())
    x = torch.ones(3, requires_grad=True)
    balance.measure(0, x.sum(), {"alr": (0 * x).sum()}, x, {})
    assert balance.scale("alr", 0) == 0


def test_weights_ramp():
    term = TermConfig(weight=2.0, start=10, ramp=4)
    weights = [ramped_weight(term, number) for number in (1, 10, 11, 12, 14, 99)]
    assert weights == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]
    assert ramped_weight(TermConfig(), 1) == 1.0


def test_average_follows_parameters_and_buffers():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averaged = AveragedNetwork(network, 0.5)
    start = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(1)
    averaged.update(network, 10_000)
    for name, value in averaged.network.state_dict().items():
        moved = 1 if name.endswith("num_batches_tracked") else 0.5
        torch.testing.assert_close(value, start[name] + moved)
    assert not averaged.network.training


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_steps_are_finite(amp, encoders):
    loaded = load_encoders(encoders)
    config = dataclasses.replace(
        tiny_config("alrgan"),
        optim=OptimConfig(batch_size=4, amp=amp),
        refine=RefineConfig(terms="alr,lvr"),
    )
    objective = build_objective(config, loaded, World())
    batches = training_loader(
        Scenes("train", images=8), loaded.vocabulary, size=32, max_words=18, batch_size=4, seed=0
    )
    step = objective.begin(next(iter(batches)), 1)
    scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
    for phase in objective.phases:
        terms = run_phase(phase, objective.phases, [step], scaler, World())
        assert all(value.isfinite() for value in terms.values())
    scaler.update()
