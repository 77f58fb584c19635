"""StackGAN++ against the original's own tensors, and against a transcription that always runs."""

import functools

import pytest
import torch

from baselines import losses
from baselines.config import Config, EncoderConfig, LossConfig, ModelConfig, OptimConfig
from baselines.conversion.recognise import original_names
from baselines.convert import from_original, to_original
from baselines.hosts.stackgan.generator import StackGANGenerator
from baselines.hosts.stackgan.model import stages
from baselines.hosts.stackgan.objective import StackGANObjective
from baselines.networks.contracts import GeneratorInputs, Text
from baselines.networks.discriminators import Discriminator
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from baselines.training.objective import Step
from baselines.training.terms import Captions
from tests.baselines.hosts import stackgan_oracle as oracle
from tests.support.paths import require, shared

SIZES = (64, 128, 256)
B, G, D, E, C, Z = 3, 4, 2, 16, 8, 8


@functools.cache
def golden():
    return torch.load(require(shared("golden", "stackgan.pt")), weights_only=True)


@functools.cache
def random_case():
    """States in which every entry matters, and inputs."""
    torch.manual_seed(3)
    state = to_original(
        StackGANGenerator(feature_dim=G, embedding_dim=E, condition_dim=C, noise_dim=Z).double()
    )
    nets = {
        size: to_original(
            Discriminator(
                image_size=size, feature_dim=D, embedding_dim=C, sentence_first=True
            ).double()
        )
        for size in SIZES
    }
    for one in (state, *nets.values()):
        for key, value in one.items():
            if key.endswith(("bias", "running_mean")):
                value.normal_(0, 0.3)
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
    draw = functools.partial(torch.randn, dtype=torch.float64)
    images = {
        f"{kind}{size}": draw(B, 3, size, size).clamp(-2, 2) / 2
        for kind in ("real", "wrong")
        for size in SIZES
    }
    return {
        "state": state,
        "D": nets,
        "in": {"noise": draw(B, Z), "embedding": draw(B, E), "eps": draw(B, C), **images},
    }


def case(name):
    """(generator state, discriminator states by size, inputs)."""
    if name == "own":
        own = random_case()
        return own["state"], own["D"], own["in"]
    g = golden()
    inputs = {key: value.double() for key, value in g["in"].items()}
    return g["G"]["state"], {size: g["D"][f"D{size}"]["state"] for size in SIZES}, inputs


def leaves(state):
    return {
        key: value.clone().requires_grad_() if value.is_floating_point() else value.clone()
        for key, value in state.items()
    }


def close(ours, theirs, tolerance=1e-10):
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max().item()
    assert error <= tolerance, error


def draw(generator, inputs, rows=slice(None)):
    words = inputs["noise"].new_zeros(len(inputs["noise"][rows]), E, 5)
    return generator(
        inputs["noise"][rows],
        inputs["embedding"][rows],
        words,
        torch.full((len(words),), 5),
        eps=inputs["eps"][rows],
    )


@pytest.mark.parametrize("which", ["own", "golden"])
@pytest.mark.parametrize("train", [True, False])
def test_generator(which, train):
    state, _, inputs = case(which)
    net = oracle.Net(state, train)
    images, features, mu, logvar, _ = oracle.generate(
        net, inputs["noise"], inputs["embedding"], inputs["eps"]
    )
    ours = from_original(state).train(train)
    output = draw(ours, inputs)
    for mine, theirs in zip(
        (*output.images, *output.features, output.mu, output.logvar),
        (*images, *features, mu, logvar),
        strict=True,
    ):
        close(mine, theirs)
    assert output.layouts == () and ours.legacy_mask is False
    after = to_original(ours)
    for key, value in net.seen.items():
        close(after[key], value)
    assert bool(net.seen) == train


def test_generator_has_the_originals_numbers():
    g, (state, _, inputs) = golden()["G"], case("golden")
    ours = from_original(state).train()
    output = draw(ours, inputs)
    for mine, theirs in zip(output.images, g["train"]["images"], strict=True):
        close(mine, theirs)
    close(output.mu, g["train"]["mu"])
    close(output.logvar, g["train"]["logvar"])
    after = to_original(ours)
    for key, value in g["buffers_after_train"].items():
        close(after[key], value)
    row = draw(from_original(state), inputs, slice(1))
    expected = g["eval_row0"]
    for mine, theirs in zip(row.images, expected["images"], strict=True):
        close(mine, theirs)
    close(row.features[0], expected["h1"])
    close(row.features[1], expected["h2"])


def settings(decode="stage", **loss):
    model = ModelConfig(
        name="stackgan", feature_dim=G, discriminator_dim=D, condition_dim=C, noise_dim=Z
    )
    config = Config(
        encoder=EncoderConfig(
            embedding_dim=E, token_dim=4, trunk="small", input_size=32, pretrained=False
        ),
        model=model,
        loss=LossConfig(**{"damsm": 0.0, "kl": 2.0, **loss}),
        optim=OptimConfig(batch_size=B),
    )
    refine = type(config.refine)(terms="alr", decode=decode)
    return Config(**{**vars(config), "refine": refine})


@pytest.mark.parametrize("decode", ["head", "stage"])
def test_decoding_refined_features_has_the_originals_numbers(decode):
    state, _, inputs = case("golden")
    generator = from_original(state)
    expected = golden()["G"]["decode_eval_row0"]
    first, second = stages(settings(decode), generator)
    assert (first.feature_dim, second.feature_dim) == (G, G // 2)
    whole = decode == "stage"
    assert (first.image_size, second.image_size) == ((128, 256) if whole else (64, 128))
    text = Text(torch.zeros(1, E, 2), torch.ones(1), inputs["embedding"][:1])
    given = GeneratorInputs(inputs["noise"][:1], text, inputs["eps"][:1])
    close(first.decode(expected["h_star"], given), expected["stage2" if whole else "head1"])


def test_the_condition_is_not_trained_by_the_reconstruction():
    generator = from_original(random_case()["state"])
    inputs = random_case()["in"]
    text = Text(torch.zeros(B, E, 2), torch.ones(B), inputs["embedding"])
    first, _ = stages(settings("stage"), generator)
    h = torch.randn(B, G, 64, 64, dtype=torch.float64)
    first.decode(h, GeneratorInputs(inputs["noise"], text, inputs["eps"])).sum().backward()
    trained = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert trained and not any(name.startswith("conditioning") for name in trained)
    assert {name.split(".")[0] for name in trained} == {"stages", "heads"}


def gradients(module):
    names = original_names(module)
    return {names[name]: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("which", ["own", "golden"])
@pytest.mark.parametrize("u", [1.0, 0.0, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_discriminator_loss_gradients_and_statistics(which, u, size):
    state, nets, inputs = case(which)
    generator = from_original(state).train()
    fake = draw(generator, inputs)
    fake_image = fake.images[SIZES.index(size)]
    weights = leaves(nets[size])
    net = oracle.Net(weights, True)
    real, wrong = inputs[f"real{size}"], inputs[f"wrong{size}"]
    expected = oracle.discriminator_loss(net, real, wrong, fake_image, fake.mu, u)
    expected.backward()
    ours = from_original(nets[size]).train()
    terms = losses.wrong_image_terms(ours, real, wrong, fake_image, fake.mu, unconditional=u)
    terms["total"].backward()
    assert all(p.grad is None for p in generator.parameters())  # images and mu are detached
    close(terms["total"], expected)
    found = gradients(ours)
    wanted = {k: v.grad for k, v in weights.items() if v.requires_grad and v.grad is not None}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        close(found[key], value, 1e-9)
    after = to_original(ours)
    for key, value in net.seen.items():
        close(after[key], value)


@pytest.mark.parametrize("size", SIZES)
def test_discriminator_has_the_originals_numbers(size):
    g, (_, nets, inputs) = golden(), case("golden")
    expected = g["D"][f"D{size}"]
    fake, mu = g["G"]["train"]["images"][SIZES.index(size)], g["G"]["train"]["mu"]
    ours = from_original(nets[size])
    with torch.no_grad():
        features = ours(inputs[f"real{size}"])
        close(ours.conditional(features, mu).sigmoid(), expected["cond_real_eval"])
        close(ours.unconditional(features).sigmoid(), expected["uncond_real_eval"])
        ours.train()
        for name, image in (("real", inputs[f"real{size}"]), ("wrong", inputs[f"wrong{size}"])):
            features = ours(image)
            close(ours.conditional(features, mu), expected[f"logit_cond_{name}"])
            close(ours.unconditional(features), expected[f"logit_uncond_{name}"])
    for key, u in (("loss", 1.0), ("loss_no_uncond", 0.0)):
        ours = from_original(nets[size]).train()
        terms = losses.wrong_image_terms(
            ours, inputs[f"real{size}"], inputs[f"wrong{size}"], fake, mu, unconditional=u
        )
        close(terms["total"], expected[key])
        if u:
            terms["total"].backward()
            found = gradients(ours)
            for name, value in expected["grad"].items():
                close(found[name], value, 1e-9)
            after = to_original(ours)
            for name, value in expected["buffers_after_step"].items():
                close(after[name], value)


def objective_of(config, state, nets):
    """The host's own objective on given weights, in float64."""
    objective = StackGANObjective(
        config,
        from_original(state),
        torch.nn.ModuleList(from_original(nets[size]) for size in SIZES),
        TextEncoder(5, embedding_dim=E, token_dim=4),
        ImageEncoder(embedding_dim=E, trunk="small", input_size=32),
        World(),
    )
    return objective


def step_of(objective, inputs):
    text = Text(torch.zeros(B, E, 2), torch.ones(B, dtype=torch.int64), inputs["embedding"])
    return Step(
        number=1,
        real=tuple(inputs[f"real{size}"] for size in SIZES),
        fake=draw(objective.net, inputs),
        inputs=GeneratorInputs(inputs["noise"], text, inputs["eps"]),
        captions=Captions(text.sentence, text.words, text.lengths, torch.arange(B)),
        mismatched="shift",
        wrong=tuple(inputs[f"wrong{size}"] for size in SIZES),
    )


CASES = {"undisturbed": (1.0, 0.0), "colour50": (1.0, 50.0), "no_uncond": (0.0, 0.0)}


@pytest.mark.parametrize("which", ["own", "golden"])
@pytest.mark.parametrize("name", CASES)
def test_generator_loss_and_gradients(which, name):
    u, colour = CASES[name]
    state, nets, inputs = case(which)
    weights = leaves(state)
    images, _, mu, logvar, _ = oracle.generate(
        oracle.Net(weights, True), inputs["noise"], inputs["embedding"], inputs["eps"]
    )
    judges = [oracle.Net(nets[size], True) for size in SIZES]
    expected = oracle.generator_loss(judges, images, mu, logvar, u=u, colour=colour, kl=2.0)
    expected.backward()
    objective = objective_of(settings(unconditional=u, colour=colour), state, nets)
    loss = objective.generator_loss(step_of(objective, inputs))
    loss.total.backward()
    close(loss.total, expected)
    found = gradients(objective.net)
    for key, value in weights.items():
        if value.requires_grad and "running" not in key:
            close(found[key], value.grad, 1e-9)
    if which == "golden":
        original = golden()["G_loss"][name]
        close(loss.total, original["total"])
        terms = {term.name: term for term in loss.terms}
        close(terms["kl"].weight * terms["kl"].value, original["kl_weighted"])
        for key, value in original.get("grad", {}).items():
            close(found[key], value, 1e-9)


def test_colours_have_the_originals_numbers():
    g, images = golden()["colour"], golden()["G"]["train"]["images"]
    for fine, coarse in ((256, 128), (128, 64)):
        pair = (images[SIZES.index(size)] for size in (fine, coarse))
        expected = g[f"mse_mean_{fine}_{coarse}"] + 5 * g[f"mse_covariance_{fine}_{coarse}"]
        close(losses.colour_consistency_loss(*pair), expected)


def test_colours_ignore_where_they_are_and_teach_only_the_fine_image():
    fine = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    coarse = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    loss = losses.colour_consistency_loss(fine, coarse)
    loss.backward()
    assert fine.grad.abs().max() > 0 and coarse.grad is None
    shuffled = fine.detach().flatten(2)[:, :, torch.randperm(64)].view_as(fine)
    close(losses.colour_consistency_loss(shuffled, coarse), loss, 1e-14)
    bigger = coarse.detach().repeat_interleave(2, 2).repeat_interleave(2, 3)
    close(losses.colour_consistency_loss(bigger, coarse), torch.zeros_like(loss), 1e-14)


def test_a_whole_iteration_has_the_originals_numbers():
    g, (state, nets, inputs) = golden()["step"], case("golden")
    objective = objective_of(settings(), state, nets)
    before = {k: v.clone() for k, v in to_original(objective.net).items()}
    step, scaler = step_of(objective, inputs), torch.amp.GradScaler("cpu", enabled=False)
    for phase in objective.phases:
        terms = run_phase(phase, objective.phases, [step], scaler, World())
    logged = {term.name: term.value for term in terms}
    close(logged["G/total"], g["G_loss"])
    for size, network in zip(SIZES, objective.discriminators, strict=True):
        for key, value in g["D"][f"D{size}"].items():
            close(to_original(network)[key], value, 1e-9)
    for key, value in g["G"].items():
        close(to_original(objective.net)[key], value, 1e-9)
        assert not torch.equal(before[key], value)
    objective.after(100_000)  # by then the decay has risen to the original's constant
    for key, value in g["G_average"].items():
        close(to_original(objective.average.network)[key], value, 1e-12)
