"""One battery for every public module, and what LayoutEncoder and LayoutRefinement do."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import alr_layers
from tests.support.inputs import make_inputs
from tests.support.tolerances import assert_exact

BATCH, WORDS, CHANNELS, WORD_CHANNELS, HEIGHT, WIDTH = 3, 5, 8, 6, 4, 6


class Head(nn.Module):
    """An image head, as a host has it; doubles the size if it stands for a whole stage."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.image = nn.Conv2d(CHANNELS, 3, 3, padding=1)

    def forward(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        image = self.image(features).tanh()
        return image.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def tensors(batch: int = BATCH) -> dict[str, Tensor]:
    inputs = make_inputs(batch, WORDS, CHANNELS, HEIGHT, WIDTH, dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    return {
        **vars(inputs),
        "words": torch.randn(batch, WORD_CHANNELS, WORDS, generator=generator),
        "images": torch.rand(batch, 3, HEIGHT, WIDTH, generator=generator) * 2 - 1,
    }


def refinement(**options: object) -> alr_layers.LayoutRefinement:
    module = alr_layers.ALRModule(CHANNELS, WORD_CHANNELS)
    return alr_layers.LayoutRefinement(module, decode=Head(), **options)


BATTERY: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "ALRModule": (
        lambda: alr_layers.ALRModule(CHANNELS, WORD_CHANNELS),
        ("features", "words", "lengths"),
    ),
    "ALRLoss": (lambda: alr_layers.ALRLoss(CHANNELS), ("layout", "real_layout", "real_features")),
    "LVRLoss": (
        lambda: alr_layers.LVRLoss(),
        ("features", "real_features", "layout", "real_layout"),
    ),
    "LayoutEncoder": (lambda: alr_layers.LayoutEncoder(CHANNELS, downsample=2), ("images",)),
    "LayoutRefinement": (refinement, ("features", "layout", "images", "words", "lengths")),
}


def flat(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return list(result.values() if isinstance(result, dict) else result)


@pytest.fixture(params=BATTERY)
def case(request) -> tuple[nn.Module, tuple[Tensor, ...]]:
    build, names = BATTERY[request.param]
    given = tensors()
    return build(), tuple(given[name] for name in names)


def test_copies_behave_the_same(case):
    module, args = case
    wanted = flat(module(*args))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(map(torch.equal, flat(twin(*args)), wanted))


def test_state_dict_round_trip(case):
    module, args = case
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.normal_()
    twin.load_state_dict(module.state_dict())
    assert all(map(torch.equal, flat(twin(*args)), flat(module(*args))))


def test_repr_names_the_options(case):
    module, _ = case
    assert repr(module).startswith(type(module).__name__ + "(")
    if hasattr(module, "backend"):
        assert "backend=None" in repr(module)


def test_moves_to_double(case):
    module, args = case
    if isinstance(module, alr_layers.LayoutRefinement):
        for host in module._host:
            host.double()
    wide = [value.double() if value.is_floating_point() else value for value in args]
    assert {value.dtype for value in flat(module.double()(*wide))} == {torch.float64}


def test_no_gradient_and_evaluation_change_nothing(case):
    module, args = case
    wanted = flat(module(*args))
    with torch.no_grad():
        assert all(map(torch.equal, flat(module.eval()(*args)), wanted))


def test_every_parameter_learns(case):
    module, args = case
    total = sum(value.square().sum() for value in flat(module(*args)))
    for name, parameter in module.named_parameters():
        (grad,) = torch.autograd.grad(total, parameter, retain_graph=True)
        assert grad.abs().sum() > 0, name


def test_inference_needs_the_projection_alone():
    assert list(alr_layers.ALRModule(8, 6).state_dict()) == ["word_projection.weight"]
    assert not list(alr_layers.LVRLoss().parameters())


@pytest.mark.parametrize("downsample", [1, 2, 4])
def test_encoder_meets_the_grid(downsample):
    encoder = alr_layers.LayoutEncoder(8, downsample=downsample, width=12)
    images = torch.randn(1, 3, 4 * downsample, 6 * downsample)
    assert encoder(images).shape == (1, 8, 4, 6)
    alone = torch.cat([encoder(image[None]) for image in images.expand(2, -1, -1, -1)])
    assert_exact(encoder(images.expand(2, -1, -1, -1)), alone)
    assert not list(encoder.buffers()), "no running statistics"


def test_refinement_is_the_sum_of_its_parts():
    given, refine = tensors(), refinement()
    module, decode = refine._host
    args = [given[name] for name in BATTERY["LayoutRefinement"][1]]
    features, layout, images, words, lengths = args
    real_features = refine.encoder(images)
    real_layout = module.layout(real_features, words, lengths)
    wanted = {
        "alr": refine.alr(layout, real_layout, real_features),
        "reconstruction": (images - decode(real_features, words, lengths)).abs().mean(),
        "lvr": refine.lvr(features, real_features, layout, real_layout),
    }
    results = refine(*args)
    terms = refine.terms(*args)
    assert list(results) == list(wanted)
    assert list(terms) == ["easy", "hard", "order", "reconstruction", "perception", "style"]
    for name, value in wanted.items():
        assert_exact(results[name], value)
        assert torch.equal(results[name], refine.total(terms)[name])
    real = refine.real_branch(images, words, lengths)
    assert torch.equal(real[1], real_layout)
    assert terms == refine.terms(*args, real=real)


def test_refinement_without_lvr():
    refine = refinement(use_lvr=False)
    args = [tensors()[name] for name in BATTERY["LayoutRefinement"][1]]
    assert list(refine(*args)) == ["alr", "reconstruction"]


def test_host_is_not_registered():
    refine = refinement()
    module, decode = refine._host
    own = {id(parameter) for parameter in refine.parameters()}
    assert not own & {id(p) for host in (module, decode) for p in host.parameters()}
    prefixes = {name.split(".")[0] for name in refine.state_dict()}
    assert prefixes == {"alr", "encoder"}
    assert "ALRModule (the host's)" in repr(refine)


def test_host_stays_shared_when_copied_together():
    refine = refinement()
    host = nn.ModuleList(refine._host)
    for twin, twin_host in (
        copy.deepcopy((refine, host)),
        pickle.loads(pickle.dumps((refine, host))),
    ):
        assert twin._host[0] is twin_host[0]
        assert twin._host[1] is twin_host[1]


def test_who_learns_from_what():
    refine = refinement()
    module, decode = refine._host
    given = tensors()
    features = given["features"].requires_grad_()
    _, layout = module(features, given["words"], given["lengths"])
    args = (features, layout, given["images"], given["words"], given["lengths"])
    for name, loss in refine(*args).items():
        reached = {
            part: any(
                grad is not None and grad.abs().sum() > 0
                for grad in torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
            )
            for part, leaves in {
                "features": [features],
                "projection": list(module.parameters()),
                "encoder": list(refine.encoder.parameters()),
                "decoder": list(decode.parameters()),
                "phi": list(refine.alr.parameters()),
            }.items()
        }
        host = name != "reconstruction"
        assert reached == {
            "features": host,
            "projection": host,
            "encoder": not host,
            "decoder": not host,
            "phi": name == "alr",
        }


def test_refinement_takes_a_whole_stage_and_any_module():
    class Similar:
        feature_dim = CHANNELS

        def layout(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
            return alr_layers.semantic_similarity(features, words[:, :1].expand(-1, 8, -1), lengths)

    encoder = alr_layers.LayoutEncoder(CHANNELS, downsample=2)
    refine = alr_layers.LayoutRefinement(Similar(), decode=Head(scale=2), encoder=encoder)
    given = tensors()
    images = torch.randn(BATCH, 3, 2 * HEIGHT, 2 * WIDTH).tanh()
    results = refine(given["features"], given["layout"], images, given["words"], given["lengths"])
    assert all(value.isfinite() for value in results.values())


def test_zero_weight_leaves_the_host_as_it_was():
    given, refine = tensors(), refinement()
    module, _ = refine._host
    features = given["features"].requires_grad_()

    def gradient(weight: float | None) -> Tensor:
        context, layout = module(features, given["words"], given["lengths"])
        loss = context.square().mean()
        if weight is not None:
            args = (features, layout, given["images"], given["words"], given["lengths"])
            loss = loss + weight * sum(refine(*args).values())
        return torch.autograd.grad(loss, [features, *module.parameters()])

    assert all(map(torch.equal, gradient(0.0), gradient(None)))
