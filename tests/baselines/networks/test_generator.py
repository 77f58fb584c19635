import copy
import pickle

import pytest
import torch

from baselines import losses
from baselines.hosts.attngan.fusion import WordAttention
from baselines.hosts.dmgan.fusion import DynamicMemory
from baselines.networks.contracts import Text
from baselines.networks.discriminators import Discriminator
from baselines.networks.generator import StackedGenerator
from baselines.networks.initialisation import orthogonal_

SIZES = {"embedding_dim": 12, "condition_dim": 6, "noise_dim": 5, "residual_blocks": 1}
LENGTHS = torch.tensor([4, 2, 3])
FUSIONS = [WordAttention, DynamicMemory]


def make(fusion=WordAttention, **sizes):
    torch.manual_seed(0)
    return StackedGenerator(
        **({"feature_dim": 4, "fusion": fusion, "base_size": 16} | SIZES | sizes)
    )


def inputs(batch=3, words=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "noise": (batch, 5),
        "sentence": (batch, 12),
        "words": (batch, 12, words),
        "eps": (batch, 6),
    }
    drawn = {k: torch.randn(*shape, generator=generator) for k, shape in shapes.items()}
    return drawn | {"lengths": LENGTHS[:batch]}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("base", "stages"), [(8, 1), (16, 3), (32, 2), (64, 1)])
def test_sizes_follow_base_and_stages(fusion, base, stages):
    generator = make(fusion, base_size=base, stages=stages)
    output = generator(**inputs())
    sides = [base * 2**k for k in range(stages)]
    assert generator.image_sizes == tuple(sides)
    assert [tuple(x.shape) for x in output.images] == [(3, 3, s, s) for s in sides]
    assert [tuple(x.shape) for x in output.features] == [(3, 4, s, s) for s in sides]
    assert [tuple(x.shape) for x in output.layouts] == [(3, 4, s, s) for s in sides[:-1]]
    assert output.mu.shape == output.logvar.shape == (3, 6)
    assert all(x.abs().max() <= 1 for x in output.images)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_picture_depends_on_its_own_row_alone(fusion):
    generator = make(fusion, stages=2).eval()
    batch = inputs()
    with torch.no_grad():
        whole = generator(**batch).images[-1]
        order = torch.tensor([2, 0, 1])
        shuffled = generator(**{k: v[order] for k, v in batch.items()}).images[-1]
        torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=0)
        for row in range(3):
            alone = generator(**{k: v[row : row + 1] for k, v in batch.items()}).images[-1]
            torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padded_words_do_not_matter(fusion):
    generator = make(fusion, stages=2).eval()
    batch = inputs()
    wider = torch.cat((batch["words"].clone(), torch.full((3, 12, 3), 50.0)), dim=2)
    for row, length in zip(wider, LENGTHS, strict=True):
        row[:, length:] = 50.0
    with torch.no_grad():
        a, b = generator(**batch), generator(**(batch | {"words": wider}))
    torch.testing.assert_close(a.images[-1], b.images[-1], atol=1e-5, rtol=0)
    assert (b.layouts[0][1, 2:] == 0).all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_legacy_mask_takes_the_caption_of_another_row(fusion):
    module = fusion(4, 12).double()
    features = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    words = torch.randn(2, 12, 4, dtype=torch.float64)
    lengths = torch.tensor([4, 1])
    module.legacy_mask = True
    text = Text(words, lengths, torch.zeros(2, 12))
    layout = module(features, text)[1].flatten(2)
    for b in range(2):
        for q in range(9):
            real = int(lengths[(b * 9 + q) % 2])
            assert (layout[b, :real, q] > 0).all() and (layout[b, real:, q] == 0).all()
    torch.testing.assert_close(module.layout(features, text).flatten(2), layout)
    same = text._replace(lengths=torch.tensor([3, 3]))
    legacy = module(features, same)
    module.legacy_mask = False
    for a, b in zip(legacy, module(features, same), strict=True):
        torch.testing.assert_close(a, b)


def test_the_mask_switch_reaches_every_stage():
    generator = make(stages=3)
    assert not generator.legacy_mask
    generator.legacy_mask = True
    assert all(stage.fusion.legacy_mask for stage in generator.stages) and generator.legacy_mask
    assert not any("mask" in key for key in generator.state_dict())


def test_conditioning_noise_is_drawn_unless_given():
    generator = make(stages=1).eval()
    batch = inputs()
    eps = batch.pop("eps")
    with torch.no_grad():
        free = [generator(**batch).images[0] for _ in range(2)]
        given = [generator(**batch, eps=eps).images[0] for _ in range(2)]
    assert not torch.equal(*free) and torch.equal(*given)


def test_single_image_paints_the_last_stage_alone():
    generator = make(stages=3, single_image=True, residual_blocks=0)
    output = generator(**inputs())
    assert generator.image_sizes == (64,)
    assert [tuple(x.shape) for x in output.images] == [(3, 3, 64, 64)]
    assert len(output.features) == 3 and len(output.layouts) == 2


def test_initial_weights_are_orthogonal():
    for network in (make(DynamicMemory), Discriminator(image_size=32, feature_dim=4)):
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)):
                flat = module.weight.detach().flatten(1)
                flat = flat if flat.shape[0] <= flat.shape[1] else flat.t()
                torch.testing.assert_close(flat @ flat.t(), torch.eye(len(flat)), atol=1e-5, rtol=0)
            if isinstance(module, torch.nn.Linear) and module.bias is not None:
                assert (module.bias == 0).all()
            if isinstance(module, torch.nn.BatchNorm2d):
                assert (module.weight - 1).abs().max() < 0.15 and (module.bias == 0).all()


def step(generator, discriminators, batch):
    """One step of both sides; all stays finite and every part of every network learns."""
    networks = [generator, *discriminators]
    optimisers = [torch.optim.Adam(n.parameters(), 2e-4, betas=(0.5, 0.999)) for n in networks]
    before = [copy.deepcopy(n.state_dict()) for n in networks]
    output = generator(**batch)
    for network, optimiser, fake in zip(discriminators, optimisers[1:], output.images, strict=True):
        real = torch.rand_like(fake) * 2 - 1
        losses.discriminator_loss(network, real, fake, batch["sentence"]).backward()
        optimiser.step()
    total = losses.kl_loss(output.mu, output.logvar)
    for network, fake in zip(discriminators, output.images, strict=True):
        total = total + losses.generator_loss(network, fake, batch["sentence"])
    total.backward()
    optimisers[0].step()
    for network, old in zip(networks, before, strict=True):
        assert all(p.isfinite().all() for p in network.parameters())
        for part, module in network.named_children():
            weights = dict(module.named_parameters(prefix=part))
            assert any(not torch.equal(old[name], new) for name, new in weights.items()), part


def test_a_training_step_of_attndcgan():
    generator = make(stages=3, base_size=64, feature_dim=2, single_image=True, residual_blocks=0)
    network = Discriminator(image_size=256, feature_dim=2, embedding_dim=12, unconditional=False)
    step(generator, [network], inputs())


@pytest.mark.parametrize(
    ("fusion", "norm"), [(WordAttention, "batch"), (DynamicMemory, "spectral")]
)
def test_a_training_step_up_to_512_pixels(fusion, norm):
    generator = make(fusion, stages=4, base_size=64, feature_dim=2)
    discriminators = [
        Discriminator(image_size=size, feature_dim=2, embedding_dim=12, norm=norm)
        for size in generator.image_sizes
    ]
    assert generator.image_sizes[-1] == 512
    step(generator, discriminators, inputs(batch=2))


@pytest.mark.parametrize("norm", ["batch", "spectral"])
@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_discriminators_end_in_the_same_shape(size, norm):
    network = Discriminator(image_size=size, feature_dim=3, embedding_dim=5, norm=norm)
    features = network(torch.randn(2, 3, size, size))
    assert features.shape == (2, 24, 4, 4)
    assert network.unconditional(features).shape == (2,)
    assert network.conditional(features, torch.randn(2, 5)).shape == (2,)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_half_precision_keeps_images_and_gradients_in_float32(fusion):
    generator = make(fusion, stages=2)
    network = Discriminator(image_size=32, feature_dim=2, embedding_dim=12, norm="spectral")
    with torch.autocast("cpu", torch.bfloat16):
        output = generator(**inputs())
        loss = losses.generator_loss(network, output.images[-1], inputs()["sentence"])
    loss.backward()
    assert loss.dtype == output.images[-1].dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in generator.parameters())
    for layout in output.layouts:
        torch.testing.assert_close(layout.float().sum(1), torch.ones(3, 16, 16), atol=0.02, rtol=0)


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_networks_copy_pickle_and_reload(norm):
    network = Discriminator(image_size=16, feature_dim=2, embedding_dim=5, norm=norm).eval()
    images = torch.randn(2, 3, 16, 16)
    other = Discriminator(image_size=16, feature_dim=2, embedding_dim=5, norm=norm).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(copy.deepcopy(network)(images), network(images))
    assert torch.equal(other(images), network(images))
    generator = make()
    assert (
        pickle.loads(pickle.dumps(generator)).state_dict().keys() == generator.state_dict().keys()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(base_size=48), "base_size must be 8, 16, 32, 64, ..., got 48"),
        (lambda: make(base_size=4), "got 4"),
        (lambda: make(stages=0), "stages=0"),
        (lambda: make()(**(inputs() | {"noise": torch.zeros(3, 9)})), r"noise must be \(3, 5\)"),
        (lambda: make()(**(inputs() | {"eps": torch.zeros(1, 6)})), r"eps must be \(3, 6\)"),
        (lambda: Discriminator(image_size=100, feature_dim=2), "got 100"),
        (lambda: Discriminator(image_size=64, feature_dim=2, norm="layer"), "'layer'"),
        (
            lambda: Discriminator(image_size=16, feature_dim=2)(torch.zeros(1, 3, 32, 32)),
            r"judges \(B, 3, 16, 16\) images, got \(1, 3, 32, 32\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("shape", [(3, 4, 3, 3), (40, 5), (6, 7)])
def test_orthogonal_start_equals_the_qr_decomposition(shape):
    weight = torch.empty(shape, dtype=torch.float64)
    torch.manual_seed(3)
    orthogonal_(weight)
    matrix = weight.flatten(1)
    rows, columns = matrix.shape
    torch.manual_seed(3)
    if rows < columns:
        q, r = torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64).t())
        expected = (q * r.diag().sign()).t()
        torch.testing.assert_close(matrix, expected)
    small = matrix if rows < columns else matrix.t()
    torch.testing.assert_close(small @ small.t(), torch.eye(len(small), dtype=torch.float64))
