import copy
import dataclasses

import pytest
import torch
from torch import nn

from alr_layers import semantic_similarity
from baselines import losses
from baselines.config import OptimConfig, RefineConfig, TermConfig
from baselines.data.loader import training_loader
from baselines.data.scenes import Scenes
from baselines.networks.contracts import Text
from baselines.refinement import StageLayoutTerms
from baselines.runs import load_encoders
from baselines.train import build_objective
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from baselines.training.objective import AveragedNetwork
from baselines.training.terms import CaptionBank
from benchmarks.saved_tensors import SavedTensors
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
        for name in networks.keys() - {phase.name, *(p.name for p in objective.phases)}:
            assert all(p.grad is None for p in networks[name].parameters()), name


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
    whole = objective.generator_loss(objective.begin(batch, 1))
    loss = {term.name: term.value for term in whole.terms}
    alr = sum(loss[f"stage1/{name}"] for name in ("easy", "hard", "order"))
    lvr = loss["stage1/perception"] + loss["stage1/style"]
    expected = loss["adversarial_16"] + loss["adversarial_32"] + loss["kl"]
    expected = expected + 5 * (loss["damsm_words"] + loss["damsm_sentence"])
    expected = expected + 2 * alr + 3 * loss["stage1/reconstruction"] + 0.5 * lvr
    torch.testing.assert_close(whole.total, expected)
    torch.testing.assert_close(loss["stage1/alr"], alr)
    torch.testing.assert_close(loss["stage1/lvr"], lvr)


@pytest.mark.parametrize("decode", ["head", "stage"])
def test_both_readings_of_the_decoder_train_their_encoder(decode, setting):
    loaded, batch = setting
    objective = objective_of(loaded, decode=decode)
    (extra,) = objective.extra_terms
    assert isinstance(extra, StageLayoutTerms)
    before = flat(extra.refinements[0].encoder)
    step = objective.begin(batch, 1)
    run_phase(objective.phases[-1], objective.phases, [step], SCALER, World())
    assert not torch.equal(before, flat(extra.refinements[0].encoder))


def test_real_features_leave_no_trace_in_running_statistics(setting):
    loaded, batch = setting
    host, refined = objective_of(loaded), objective_of(loaded, decode="stage")
    for objective in (host, refined):
        objective.generator_loss(objective.begin(batch, 1))
    for (name, a), b in zip(host.net.named_buffers(), refined.net.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_share_of_the_hosts_gradient_is_kept(setting):
    loaded, batch = setting
    share = {"alr": TermConfig(share=0.25), "lvr": TermConfig(share=0.5)}
    share["reconstruction"] = TermConfig(share=0.125)
    objective = objective_of(loaded, normalization="rms", **share)
    step = objective.begin(batch, 1)
    terms = {term.name: term for term in objective.generator_loss(step).terms}
    anchor = objective.net.heads[1][0].weight
    for name, at in (("alr", 0), ("lvr", 0), ("reconstruction", anchor)):
        place = step.fake.features[0] if isinstance(at, int) else at
        term = terms[f"stage1/{name}"]
        both = (term.weight * term.value, terms["host"].value)
        added, host = (gradient_norm(value, place) for value in both)
        torch.testing.assert_close(added / host, torch.tensor(share[name].share))


@pytest.mark.parametrize("decode", ["head", "stage"])
@pytest.mark.parametrize("detach_target", [True, False])
def test_terms_differentiated_early_train_as_their_graph_would(decode, detach_target, setting):
    loaded, batch = setting
    share = {"alr": TermConfig(share=0.25), "lvr": TermConfig(weight=3.0)}
    share["reconstruction"] = TermConfig(share=0.125)
    seen = []
    for early in (True, False):
        settings = {"decode": decode, "detach_target": detach_target, "normalization": "rms"}
        objective = objective_of(loaded, **settings, **share)
        objective.extra_terms[0].early = early
        for number in (1, 2):  # the second with the scales of the first
            step = objective.begin(batch, number)
            terms = run_phase(objective.phases[-1], objective.phases, [step], SCALER, World())
            gradients = [p.grad for p in objective.phases[-1].parameters]
            seen.append(({term.name: term.value for term in terms}, gradients))
    for ours, graph in ((seen[0], seen[2]), (seen[1], seen[3])):
        assert ours[0].keys() == graph[0].keys()
        for name, value in graph[0].items():
            torch.testing.assert_close(ours[0][name], value, rtol=1e-4, atol=1e-6)
        largest = max(float(g.abs().max()) for g in graph[1] if g is not None)
        for a, b in zip(ours[1], graph[1], strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * largest)


def test_refined_steps_keep_hardly_more_for_their_backward_pass_than_the_hosts(setting):
    """At most 15 %: what a step keeps at any moment, by bytes."""
    loaded, batch = setting
    peaks = []
    for refine in ({}, {"decode": "stage"}):
        objective = objective_of(loaded, **refine)
        networks = (*objective.networks.values(), loaded.image, loaded.text)
        with SavedTensors(state(networks)) as saved:
            step = objective.begin(batch, 1)
            for phase in objective.phases:
                run_phase(phase, objective.phases, [step], SCALER, World())
            del step
        peaks.append(saved.peak)
    assert peaks[1] <= 1.15 * peaks[0]


def state(networks):
    """Parameters and buffers, which exist anyway."""
    return [t for network in networks for t in (*network.parameters(), *network.buffers())]


def test_refining_every_few_steps_weighs_as_many_times_as_much(setting):
    loaded, batch = setting
    plain = TermConfig(weight=2.0, start=4)
    late = {"alr": plain, "reconstruction": plain, "lvr": TermConfig(share=0.5, start=4)}
    each, rare = objective_of(loaded, **late), objective_of(loaded, every=3, **late)
    refining = []
    for number in range(1, 11):
        step = rare.begin(batch, number)
        terms = {term.name: term for term in rare.generator_loss(step).terms}
        if "stage1/alr" not in terms:
            assert not any(name.startswith("stage1") for name in terms)
            continue
        refining.append(number)
        whole = {term.name: term for term in each.generator_loss(each.begin(batch, number)).terms}
        for name in ("alr", "reconstruction"):
            assert terms[f"stage1/{name}"].weight == 6.0 == 3 * whole[f"stage1/{name}"].weight
        if number > 7:  # measured scales are averages from the second on
            continue
        h, lvr = step.fake.features[0], terms["stage1/lvr"]
        added = gradient_norm(lvr.weight * lvr.value, h) / gradient_norm(terms["host"].value, h)
        assert float(added) == pytest.approx(3 * 0.5, rel=1e-4)
    assert refining == [7, 10]


def test_norms_are_logged_once_a_line_however_rarely_steps_refine(setting):
    loaded, batch = setting
    for source in ("module", "damsm"):
        objective = objective_of(loaded, every=4, source=source)
        log_every = objective.config.run.log_every
        logged = []
        for number in range(log_every - 3, log_every + 9):
            terms = objective.generator_loss(objective.begin(batch, number)).terms
            if any("_gradients/" in term.name for term in terms):
                logged.append(number)
        first = next(n for n in range(log_every, log_every + 4) if (n - 1) % 4 == 0)
        assert logged == [first]


def gradient_norm(loss, at):
    return torch.autograd.grad(loss, at, retain_graph=True)[0].norm()


def test_terms_follow_start_and_ramp(setting):
    loaded, batch = setting
    late = TermConfig(weight=2.0, start=10, ramp=4)
    objective = objective_of(loaded, alr=late, reconstruction=late, lvr=late)
    weights = []
    for number in (1, 10, 11, 12, 14, 99):
        terms = {t.name: t for t in objective.generator_loss(objective.begin(batch, number)).terms}
        weights.append(terms["stage1/alr"].weight if "stage1/alr" in terms else 0.0)
    assert weights == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]


def test_only_refined_runs_have_layouts_of_real_images(setting):
    loaded, batch = setting
    with torch.no_grad():
        text = loaded.text(batch.captions, batch.lengths_cpu)
        text = Text(text.words, batch.lengths, text.sentence)
        assert objective_of(loaded).real_layouts(batch.images, text) == ()
        (layout,) = objective_of(loaded, decode="stage").real_layouts(batch.images, text)
        (seen,) = objective_of(loaded, source="damsm").real_layouts(batch.images, text)
    for theta in (layout, seen):
        torch.testing.assert_close(theta.sum(1), torch.ones_like(theta[:, 0]))


def test_damsm_layouts_refine_without_an_encoder_or_decoder(setting):
    loaded, batch = setting
    settings = {"alr": TermConfig(share=0.15), "lvr": TermConfig(share=0.05)}
    objective = objective_of(loaded, source="damsm", normalization="rms", **settings)
    assert set(objective.networks) == {"generator", "discriminators", "average", "alr", "balance"}
    step = objective.begin(batch, 1)
    terms = {term.name: term for term in objective.generator_loss(step).terms}
    image = step.fake.images[-1]
    for name, share in (("alr", 0.15), ("lvr", 0.05)):
        term = terms[f"damsm/{name}"]
        added = gradient_norm(term.weight * term.value, image)
        torch.testing.assert_close(
            added / gradient_norm(terms["host"].value, image), torch.tensor(share)
        )


@pytest.mark.parametrize("source", ["module", "damsm"])
def test_equal_weights_leave_the_plain_norms_and_no_parameters(source, setting):
    """R parted by γ, both parts at full weight: nothing is learned that could take them away."""
    loaded, batch = setting
    objective = objective_of(loaded, source=source, weighting="equal", normalization="rms")
    assert not any(
        "phi" in name for net in objective.networks.values() for name in net.state_dict()
    )
    step = objective.begin(batch, 1)
    terms = {term.name: term.value for term in objective.generator_loss(step).terms}
    text = step.inputs.text
    if source == "damsm":
        drawn = step.image_features(objective.image_encoder).regions
        channels, layout = drawn.shape[1], semantic_similarity(drawn, text.words, text.lengths)
    else:
        layout, channels = step.fake.layouts[0], step.fake.features[0].shape[1]
    with torch.no_grad():
        real = objective.real_layouts(batch.images, text)[0]
    residual = (real - layout).abs()
    prefix = "stage1" if source == "module" else "damsm"
    for name, part in (("easy", residual < 0.1), ("hard", residual >= 0.1)):
        norms = torch.where(part, residual, 0).flatten(1).norm(dim=1)
        expected = norms.mean() / (channels * residual[0, 0].numel()) ** 0.5
        torch.testing.assert_close(terms[f"{prefix}/{name}"], expected)


def test_learning_rates_fall_over_the_last_part_of_the_run(setting):
    loaded, batch = setting
    config = dataclasses.replace(tiny_config("attngan"), encoder=loaded.config)
    optim = OptimConfig(batch_size=4, images=400, g_lr=1e-3, d_lr=5e-4, decay=0.5)
    objective = build_objective(dataclasses.replace(config, optim=optim), loaded, World())
    seen = []
    for number in (1, 51, 76, 100, 500):
        objective.begin(batch, number)
        seen.append([phase.optimizer.param_groups[0]["lr"] for phase in objective.phases])
    for rates, factor in zip(seen, (1, 1, 0.5, 0.02, 0.02), strict=True):
        assert rates == pytest.approx([5e-4 * factor, 5e-4 * factor, 1e-3 * factor])


def test_the_bank_adds_captions_of_earlier_steps_to_the_sentence_loss():
    torch.manual_seed(0)
    bank = CaptionBank(3, 4)
    code, own, classes = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([7, 8])
    scores, columns = bank.scores(code, own, classes)
    plain = losses.sentence_scores(code, own)
    torch.testing.assert_close(scores[:, :2], plain)
    assert (scores[:, 2:] == -torch.inf).all()
    first, second = torch.randn(2, 4), torch.randn(2, 4)
    bank.add(first, torch.tensor([1, 2]))
    bank.add(second, torch.tensor([3, 7]))  # the oldest, of class 1, gives way
    scores, columns = bank.scores(code, own, classes)
    held = {int(c): s for c, s in zip(columns[2:], scores[:, 2:].t(), strict=True)}
    assert set(held) == {2, 3, 7}
    for class_id, sentence in ((2, first[1]), (3, second[0]), (7, second[1])):
        expected = torch.cosine_similarity(code, sentence[None])
        torch.testing.assert_close(held[class_id], expected)
    loss = losses.matching_loss(scores, classes, columns)
    expected = torch.stack(
        [  # image 0 does not compete with the held caption of its own class 7
            torch.stack([plain[0, 0], plain[0, 1], held[2][0], held[3][0]]).log_softmax(0)[0],
            torch.stack([*plain[1], held[2][1], held[3][1], held[7][1]]).log_softmax(0)[1],
        ]
    )
    torch.testing.assert_close(loss, -expected.mean())


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
        assert all(term.value.isfinite() for term in terms)
    scaler.update()
