"""DF-GAN in float64 against a plain transcription: outputs, losses, gradients, a whole step."""

import functools
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import alr_layers
from baselines import losses
from baselines.config import Config, EncoderConfig, RefineConfig
from baselines.conversion.recognise import original_names
from baselines.convert import from_original, to_original
from baselines.hosts.dfgan.discriminator import DFGANDiscriminator
from baselines.hosts.dfgan.generator import DFGANGenerator
from baselines.hosts.dfgan.model import stages
from baselines.hosts.dfgan.objective import DFGANObjective
from baselines.hosts.dfgan.presets import LOSS, MODEL, PRESETS
from baselines.networks.contracts import GeneratorInputs, Text
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from baselines.training.objective import Step
from baselines.training.terms import Captions
from tests.baselines.hosts import dfgan_oracle as oracle

B, N, E, Z = 3, 2, 6, 5


@functools.cache
def case(size):
    """(generator state, discriminator state, inputs), every entry random."""
    torch.manual_seed(size)
    generator = DFGANGenerator(image_size=size, feature_dim=N, embedding_dim=E, noise_dim=Z)
    critic = DFGANDiscriminator(image_size=size, feature_dim=N, embedding_dim=E)
    states = [to_original(net.double()) for net in (generator, critic)]
    for key, value in ((k, v) for state in states for k, v in state.items()):
        if "linear2" in key or key.endswith("gamma"):
            value.add_(torch.randn_like(value) * 0.3)
    draw = functools.partial(torch.randn, dtype=torch.float64)
    inputs = {"x": draw(B, 3, size, size).tanh(), "z": draw(B, Z), "s": draw(B, E)}
    return *states, inputs


def leaves(state):
    return {key: value.clone().requires_grad_() for key, value in state.items()}


def close(ours, theirs, tolerance=1e-10):
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max().item()
    assert error <= tolerance * max(1.0, theirs.abs().max().item()), error


def gradients(module):
    names = original_names(module)
    return {names[name]: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_gradients(module, weights):
    found = gradients(module)
    wanted = {key: value.grad for key, value in weights.items() if value.grad is not None}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        close(found[key], value)


def draw(generator, inputs, rows=slice(None)):
    z, s = inputs["z"][rows], inputs["s"][rows]
    return generator(z, s, s.new_zeros(len(s), E, 4), torch.full((len(s),), 4))


def objective_of(size, *, wrong="shift", amp="no", penalty=2.0, double=True):
    g, d, _ = case(size)
    loss = type(LOSS)(damsm=0.0, kl=0.0, penalty=penalty, wrong=wrong)
    config = Config(
        encoder=EncoderConfig(
            embedding_dim=E, token_dim=4, trunk="small", input_size=32, pretrained=False
        ),
        model=type(MODEL)(name="dfgan", base_size=size, stages=1, noise_dim=Z),
        loss=loss,
        optim=replace(PRESETS["cub"].optim, batch_size=B, amp=amp, ema=0.999),
    )
    networks = from_original(g), torch.nn.ModuleList([from_original(d)])
    if not double:
        networks = [network.float() for network in networks]
    return DFGANObjective(
        config,
        *networks,
        TextEncoder(5, embedding_dim=E, token_dim=4),
        ImageEncoder(embedding_dim=E, trunk="small", input_size=32),
        World(),
    )


def step_of(objective, inputs, mismatched="shift"):
    text = Text(inputs["s"].new_zeros(B, E, 2), torch.ones(B, dtype=torch.int64), inputs["s"])
    with objective.autocast():
        fake = draw(objective.net, inputs)
    return Step(
        number=1,
        real=(inputs["x"],),
        fake=fake,
        inputs=GeneratorInputs(inputs["z"], text, None),
        captions=Captions(text.sentence, text.words, text.lengths, torch.arange(B)),
        mismatched=mismatched,
    )


@pytest.mark.parametrize("size", [32, 64, 128])
def test_generator_and_its_gradients(size):
    state, _, inputs = case(size)
    weights = leaves(state)
    image, blocks = oracle.generate(weights, inputs["z"], inputs["s"])
    ours = from_original(state)
    output = draw(ours, inputs)
    for mine, theirs in zip((*output.images, *output.features), (image, *blocks), strict=True):
        close(mine, theirs)
    assert output.layouts == () and output.mu.shape == output.logvar.shape == (B, 0)
    assert [h.shape[-1] for h in output.features] == [8 << n for n in range(len(blocks))]
    (image * inputs["x"]).sum().backward()
    (output.images[0] * inputs["x"]).sum().backward()
    assert_gradients(ours, weights)


def test_training_and_evaluation_are_the_same():
    state, _, inputs = case(32)
    ours = from_original(state)
    assert not list(ours.buffers())
    assert torch.equal(draw(ours.train(), inputs).images[0], draw(ours.eval(), inputs).images[0])


@pytest.mark.parametrize("size", [32, 128])
def test_discriminator(size):
    _, state, inputs = case(size)
    ours = from_original(state)
    features = ours(inputs["x"])
    close(features, oracle.look(state, inputs["x"]))
    logits = ours.conditional(features, inputs["s"])
    close(logits, oracle.match(state, features, inputs["s"]))
    assert ours.unconditional is None and logits.shape == (B,)


@pytest.mark.parametrize("size", [32, 64])
def test_discriminator_loss_and_gradients_of_second_order(size):
    g, d, inputs = case(size)
    weights = leaves(d)
    fake, _ = oracle.generate(g, inputs["z"], inputs["s"])
    expected = oracle.discriminator_loss(weights, inputs["x"], fake, inputs["s"])
    expected.backward()
    objective = objective_of(size)
    loss = objective.discriminator_loss(step_of(objective, inputs))
    loss.total.backward()
    close(loss.total, expected)
    assert_gradients(objective.critic, weights)
    assert all(p.grad is None for p in objective.net.parameters())
    dead = {key for key in d if "conv_s" in key} - gradients(objective.critic).keys()
    assert {key.split(".")[1] for key in dead} == ({"3"} if size == 64 else set())


def test_mismatches_of_another_class_are_judged_by_sentence():
    _, d, inputs = case(32)
    objective = objective_of(32)
    other = torch.randn(B, E, dtype=torch.float64)
    loss = objective.discriminator_loss(step_of(objective, inputs, other))
    f = oracle.look(d, inputs["x"])
    expected = torch.relu(1 + oracle.match(d, f, other)).mean()
    terms = {term.name: term.value for term in loss.terms}
    close(terms["wrong"], expected)
    # Given the next image's caption turned round, both ways give the same set of pairs.
    turned = inputs["s"].roll(1, 0)
    by_sentence = objective.discriminator_loss(step_of(objective, inputs, turned))
    by_image = objective.discriminator_loss(step_of(objective, inputs))
    close(by_sentence.total, by_image.total)


def test_a_whole_iteration():
    g, d, inputs = case(32)
    d_weights, g_weights = leaves(d), leaves(g)
    fake, _ = oracle.generate(g_weights, inputs["z"], inputs["s"])
    d_loss = oracle.discriminator_loss(d_weights, inputs["x"], fake, inputs["s"])
    d_loss.backward()
    after = {
        key: value.detach() if value.grad is None else oracle.adam_step(value, value.grad, 4e-4)
        for key, value in d_weights.items()
    }
    after = {key: value.detach() for key, value in after.items()}
    g_loss = oracle.generator_loss(after, fake, inputs["s"])
    g_loss.backward()
    objective = objective_of(32)
    assert [phase.name for phase in objective.phases] == ["D", "G"]
    step, scaler = step_of(objective, inputs), torch.amp.GradScaler("cpu", enabled=False)
    logged = {}
    for phase in objective.phases:
        assert phase.optimizer.param_groups[0]["betas"] == (0.0, 0.9)
        terms = run_phase(phase, objective.phases, [step], scaler, World())
        logged |= {term.name: term.value for term in terms}
    close(logged["D/total"], d_loss)
    close(logged["G/total"], g_loss)
    for key, value in to_original(objective.critic).items():
        close(value, after[key])
    for key, value in to_original(objective.net).items():
        close(value, oracle.adam_step(g_weights[key], g_weights[key].grad, 1e-4).detach())


# The penalty


def test_penalty_in_closed_form():
    """Of a linear critic the gradient is the weights: weight * (|a|^2 + |b|^2)^3."""
    torch.manual_seed(0)
    a = torch.randn(3 * 4 * 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(7, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    s = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    for power, weight in ((6, 2.0), (2, 0.5), (4, 1.0)):
        logits = x.flatten(1) @ a + s @ b
        value = losses.matching_aware_gradient_penalty(logits, x, s, power=power, weight=weight)
        square = (a**2).sum() + (b**2).sum()
        close(value, weight * square ** (power / 2))
        (gradient,) = torch.autograd.grad(value, a)
        close(gradient, weight * power * square.detach() ** (power / 2 - 1) * a.detach())


def test_penalty_of_a_constant_critic_has_a_gradient():
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    s = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    logits = scale * (x.sum((1, 2, 3)) + s.sum(1))
    value = losses.matching_aware_gradient_penalty(logits, x, s)
    value.backward()
    assert value == 0 and scale.grad == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"power": 1.0}, "power is 1.0, expected 2 or more"),
        ({"images": torch.zeros(2, 3, 4, 4)}, "images does not require gradients"),
        ({"sentence": torch.zeros(2, 5)}, "sentence does not require gradients"),
        ({"logits": torch.zeros(2)}, "logits does not require gradients"),
        (
            {"logits": torch.zeros(2, dtype=torch.float16, requires_grad=True)},
            r"logits is torch\.float16; run the networks without autocast",
        ),
    ],
)
def test_penalty_names_what_it_cannot_use(change, message):
    x, s = torch.zeros(2, 3, 4, 4, requires_grad=True), torch.zeros(2, 5, requires_grad=True)
    given = {"logits": x.sum((1, 2, 3)) + s.sum(1), "images": x, "sentence": s} | change
    with pytest.raises(ValueError, match=message):
        losses.matching_aware_gradient_penalty(**given)


class Recorded(TorchDispatchMode):
    """Namespaces and dtypes of all that is computed, backward and second derivatives included."""

    def __init__(self):
        super().__init__()
        self.namespaces, self.products = set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.namespaces.add(function.namespace)
        if "convolution" in function.__name__:
            self.products.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("amp", ["no", "bf16", "fp16"])
def test_the_penalty_stays_float32_and_meets_no_fused_op(amp):
    _, _, inputs = case(32)
    inputs = {name: value.float() for name, value in inputs.items()}
    exact, rounded = objective_of(32, double=False), objective_of(32, amp=amp, double=False)
    values = []
    for objective in (exact, rounded):
        step = step_of(objective, inputs)
        # A fused op cannot run on the CPU, let alone twice differentiated: it would raise here.
        with alr_layers.use_backend("fused"), Recorded() as recorded:
            loss = objective.discriminator_loss(step)
            loss.total.backward()
        assert recorded.namespaces <= {"aten", "prim"}
        values.append({term.name: term.value for term in loss.terms})
        assert all(p.grad is None or p.grad.isfinite().all() for p in objective.critic.parameters())
    half = {"no": set(), "bf16": {torch.bfloat16}, "fp16": {torch.float16}}[amp]
    assert recorded.products == {torch.float32} | half  # the drawn images are judged in `amp`
    for name in ("penalty", "real", "wrong"):
        assert torch.equal(values[0][name], values[1][name])


def test_no_penalty_where_its_weight_is_zero():
    _, _, inputs = case(32)
    objective = objective_of(32, penalty=0.0)
    terms = objective.discriminator_loss(step_of(objective, inputs)).terms
    assert {term.name: term.value for term in terms}["penalty"] == 0


def test_hinges_in_plain_numbers():
    terms = losses.hinge_terms(
        torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0]), torch.tensor([1.0, -0.5])
    )
    expected = {"real": 0.25, "fake": 0.5, "wrong": 1.25, "total": 1.125, "logit_real": 1.25}
    assert {name: float(terms[name]) for name in expected} == expected


# Refinement


def test_refined_features_are_decoded_by_the_rest_of_the_generator():
    state, _, inputs = case(64)
    generator = from_original(state)
    (stage,) = stages(Config(refine=RefineConfig(terms="alr")), generator)
    output = draw(generator, inputs)
    h = stage.features(output)
    assert h.shape == (B, 4 * N, 16, 16) and stage.feature_dim == 4 * N
    assert (stage.image_size, stage.downsample) == (64, 4)
    text = Text(inputs["s"].new_zeros(B, E, 2), torch.ones(B), inputs["s"])
    given = GeneratorInputs(inputs["z"], text, None)
    assert torch.equal(stage.decode(h, given), output.images[0])
    star = torch.randn_like(h)
    y = torch.cat([inputs["z"], inputs["s"]], 1)
    x = oracle.up_block(state, 3, oracle.up_block(state, 2, star, y), y)
    close(stage.decode(star, given), oracle.paint(state, x))
    assert stage.anchor is generator.head.weight and stage.layout is None and stage.source is None
