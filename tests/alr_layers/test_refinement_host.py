"""LayoutRefinement and its host: statistics, decode_args, copies, wrong parts, ranges, wrappers."""

import copy
import functools
import io
import pickle
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel

import alr_layers
from alr_layers import ALRLoss, ALRModule, LayoutEncoder, LayoutRefinement, LVRLoss
from alr_layers._images import RangeCheck

B, T, C, D, SIDE = 3, 5, 6, 8, 4


class Generator(nn.Module):
    """A host whose stage has batch norms and needs a condition besides features and words."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.alr = ALRModule(D, C)
        self.mix = nn.Sequential(nn.Conv2d(2 * D, D, 3, padding=1), nn.BatchNorm2d(D), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(D, 3, 3, padding=1), nn.Tanh())

    def stage(self, h: Tensor, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        context, layout = self.alr(h, words, lengths)
        return self.mix(torch.cat((h, context), 1)), layout

    def decode(self, h: Tensor, words: Tensor, lengths: Tensor, condition: Tensor = 0) -> Tensor:
        return self.head(self.stage(h, words, lengths)[0] + condition)


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "features": torch.randn(B, D, SIDE, SIDE, generator=generator),
        "real_images": torch.randn(B, 3, SIDE, SIDE, generator=generator).tanh(),
        "words": torch.randn(B, C, T, generator=generator),
        "lengths": torch.tensor([5, 2, 3]),
    }


def run(net: Generator, refine: nn.Module, **options: object) -> dict[str, Tensor]:
    given = inputs()
    layout = net.alr.layout(given["features"], given["words"], given["lengths"])
    return refine(layout=layout, **given, **options)


def decode_as_function(network: Generator, h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    return network.decode(h, words, lengths)


netG = Generator()  # what a training script has at module level


def decode_from_globals(h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    return netG.head(netG.stage(h, words, lengths)[0])


def closure(net: Generator) -> object:
    mix, heads = net.mix, {"image": [net.head]}

    def decode(h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        context, _ = net.alr(h, words, lengths)
        return heads["image"][0](mix(torch.cat((h, context), 1)))

    return decode


class Trainer:
    """As scripts keep their networks: attributes of an object that is no module."""

    def __init__(self, net: Generator) -> None:
        self.netG = net

    def to_image(self, h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        return self.netG.decode(h, words, lengths)

    def decode(self, h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        return self.to_image(h, words, lengths)


class DecodeModule(nn.Module):
    def __init__(self, net: Generator) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        return self.net.decode(h, words, lengths)


DECODES = {
    "method": lambda net: net.decode,
    "module": DecodeModule,
    "partial": lambda net: functools.partial(decode_as_function, net),
    "closure": closure,
    "lambda": lambda net: lambda h, words, lengths: net.decode(h, words, lengths),
    "default": lambda net: lambda h, words, lengths, n=net: n.decode(h, words, lengths),
    "trainer": lambda net: Trainer(net).decode,
    "trainer's closure": lambda net: (lambda trainer: lambda *a: trainer.netG.decode(*a))(
        Trainer(net)
    ),
}


@pytest.mark.parametrize("kind", DECODES)
def test_real_features_leave_no_trace_in_the_statistics(kind):
    net = Generator()
    before = copy.deepcopy(net.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(net, LayoutRefinement(net.alr, decode=DECODES[kind](net)))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    net.decode(*(inputs()[name] for name in ("features", "words", "lengths")))
    assert int(net.mix[1].num_batches_tracked) == 1


def test_globals_are_found_also_when_replaced_later(monkeypatch):
    refine = LayoutRefinement(netG.alr, decode=decode_from_globals)
    other = Generator()
    monkeypatch.setitem(globals(), "netG", other)
    run(other, refine)
    assert int(other.mix[1].num_batches_tracked) == 0


def test_a_decode_without_a_network_in_sight_is_warned_of_once():
    net = Generator()
    table = SimpleNamespace(forward=net.decode)
    hidden = type(
        "Hidden", (), {"__call__": lambda self, *args: getattr(table, "for" + "ward")(*args)}
    )
    refine = LayoutRefinement(net.alr, decode=hidden())
    with pytest.warns(UserWarning, match=r"LayoutRefinement\(\.\.\., host=netG\)") as caught:
        run(net, refine)
        run(net, refine)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    net = Generator()
    table.forward = net.decode
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(net, LayoutRefinement(net.alr, decode=hidden(), host=net))
    assert int(net.mix[1].num_batches_tracked) == 0


def test_decode_args_follow_the_fixed_arguments():
    net = Generator()
    refine = LayoutRefinement(net.alr, decode=net.decode)
    plain, zero = run(net, refine), run(net, refine, decode_args=(torch.zeros(()),))
    assert plain["reconstruction"] == zero["reconstruction"]
    shifted = run(net, refine, decode_args=(torch.full((), 5.0),))
    assert shifted["reconstruction"] != plain["reconstruction"]
    assert shifted["alr"] == plain["alr"]
    with pytest.raises(TypeError, match=r"decode_args is a Tensor, expected a tuple"):
        run(net, refine, decode_args=torch.zeros(3))


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "torch.save": lambda pair: _through_file(pair),
}


def _through_file(pair: object) -> object:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def picklable(kind: str) -> bool:
    return kind in ("method", "module", "partial", "trainer")


@pytest.mark.parametrize("refinement_first", [True, False])
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", DECODES)
def test_copied_together_they_stay_tied(kind, way, refinement_first):
    net = Generator()
    refine = LayoutRefinement(net.alr, decode=DECODES[kind](net))
    wanted = run(net, refine)
    pair = (refine, net) if refinement_first else (net, refine)
    if way != "deepcopy" and not picklable(kind):
        with pytest.raises(TypeError, match="local one: pickled, it would not stay tied"):
            COPIES[way](pair)
        return
    twins = COPIES[way](pair)
    twin, twin_net = twins if refinement_first else reversed(twins)
    assert run(twin_net, twin) == wanted
    with torch.no_grad():
        for parameter in twin_net.head.parameters():
            parameter.add_(1)
    assert run(twin_net, twin)["reconstruction"] != wanted["reconstruction"], "the twin's own head"
    assert run(net, refine) == wanted
    assert int(twin_net.mix[1].num_batches_tracked) == 0


def test_a_function_that_finds_its_networks_among_the_globals():
    refine = LayoutRefinement(netG.alr, decode=decode_from_globals)
    wanted = run(netG, refine)
    twin_net, twin = copy.deepcopy((netG, refine))
    with torch.no_grad():
        twin_net.head[0].bias.add_(1)
    assert run(twin_net, twin)["reconstruction"] != wanted["reconstruction"]
    assert run(netG, refine) == wanted
    with pytest.raises(TypeError, match="among the globals: pickled, it would not stay tied"):
        pickle.dumps((netG, refine))


def test_an_averaged_copy_of_the_host_takes_nothing_along():
    net = Generator()
    refine = LayoutRefinement(net.alr, decode=net.decode)
    average = copy.deepcopy(net)
    assert len(list(average.parameters())) == len(list(net.parameters()))
    run(net, refine)["reconstruction"].backward()
    assert all(parameter.grad is None for parameter in average.parameters())


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda n: {"module": n}, TypeError, "module is a Generator, expected an ALRModule"),
        (lambda n: {"module": nn.Conv2d(3, 3, 1)}, TypeError, "module is a Conv2d"),
        (
            lambda n: {"alr": ALRLoss(D + 1)},
            ValueError,
            "alr was built for 9 channels, module for 8",
        ),
        (lambda n: {"encoder": LayoutEncoder(D * 2)}, ValueError, "encoder was built for 16"),
        (lambda n: {"alr": LVRLoss()}, TypeError, "alr is a LVRLoss, expected ALRLoss"),
        (lambda n: {"lvr": ALRLoss(D)}, TypeError, "lvr is a ALRLoss, expected LVRLoss"),
        (lambda n: {"host": "netG"}, TypeError, "host holds a str"),
    ],
)
def test_parts_that_do_not_fit_are_named_at_construction(build, error, message):
    net = Generator()
    with pytest.raises(error, match=message):
        LayoutRefinement(**({"module": net.alr, "decode": net.decode} | build(net)))


def test_what_decode_returns_is_looked_at():
    net = Generator()
    refine = LayoutRefinement(net.alr, decode=net.stage)
    with pytest.raises(
        TypeError, match="decode returned a tuple of 2, expected a tensor of images"
    ):
        run(net, refine)
    given = inputs()
    with pytest.raises(
        ValueError, match=r"features has shape .* expected 8 channels \(feature_dim"
    ):
        refine(given["features"][:, :4], given["features"], *list(given.values())[1:])


def test_one_word_is_warned_of_once():
    net = Generator()
    refine = LayoutRefinement(net.alr, decode=net.decode)
    given = inputs() | {"words": torch.randn(B, C, 1), "lengths": torch.ones(B, dtype=torch.int64)}
    layout = torch.ones(B, 1, SIDE, SIDE)
    with pytest.warns(UserWarning, match="hand over word embeddings") as caught:
        for _ in range(2):
            refine(layout=layout, **given)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.0, 1.0, "real_images lie in .*: hand over 2 \\* real_images - 1"),
        (0.0, 255.0, "bytes\\? hand over real_images / 127.5 - 1"),
        (-2.2, 2.6, "undo the normalisation by mean and standard deviation"),
        (-1.0, 1.0, None),
    ],
)
def test_images_in_another_range_are_warned_of_once(low, high, message):
    net = Generator()
    refine = LayoutRefinement(net.alr, decode=net.decode)
    given = inputs()
    given["real_images"] = torch.linspace(low, high, B * 3 * SIDE**2).view(B, 3, SIDE, SIDE)
    layout = net.alr.layout(given["features"], given["words"], given["lengths"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            refine(layout=layout, **given)
    assert len(caught) == (message is not None)
    for warning in caught:
        with pytest.raises(UserWarning, match=message):
            raise warning.message


def test_a_host_that_draws_in_zero_to_one_is_left_alone():
    check, images = RangeCheck(), torch.rand(2, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(images, images.flip(0))
        RangeCheck()(255 * images, 250 * images)
        RangeCheck()(images.to("meta"), images.to("meta"))


def test_grids_that_are_no_power_of_two_apart():
    """224 px images against 128 px features, in small: 7 against 4."""
    net = Generator()
    given = inputs()
    given["real_images"] = torch.randn(B, 3, 7, 7).tanh()
    layout = net.alr.layout(given["features"], given["words"], given["lengths"])

    def decode(h: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        return nn.functional.interpolate(net.decode(h, words, lengths), size=(7, 7))

    refine = LayoutRefinement(net.alr, decode=decode)
    with pytest.raises(ValueError, match=r"LayoutEncoder\(\.\.\., grid=\(4, 4\)\)"):
        refine(layout=layout, **given)
    encoder = LayoutEncoder(D, downsample=2, grid=(SIDE, SIDE))
    terms = LayoutRefinement(net.alr, decode=decode, encoder=encoder)(layout=layout, **given)
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    same = torch.randn(B, 3, 8, 8)
    plain = LayoutEncoder(D, downsample=2)
    plain.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(same), plain(same))
    with pytest.raises(TypeError, match=r"grid is 4, expected \(H, W\)"):
        LayoutEncoder(D, grid=4)


def test_data_parallel_around_the_refinement_is_refused_by_name():
    net = Generator()
    refine = LayoutRefinement(net.alr, decode=net.decode)
    assert run(net, DataParallel(refine)) == run(net, refine), "one device: nothing is split"
    with pytest.raises(RuntimeError, match="LayoutRefinement cannot run inside DataParallel"):
        run(net, refine._replicate_for_data_parallel())


def test_a_compiled_host():
    torch._dynamo.reset()
    net, twin = Generator(), Generator()
    net.mix.compile(backend="aot_eager")
    refine = LayoutRefinement(net.alr, decode=net.decode)
    torch.manual_seed(0)
    encoder = LayoutEncoder(D)
    refine.encoder.load_state_dict(encoder.state_dict())
    other = LayoutRefinement(twin.alr, decode=twin.decode, encoder=encoder, alr=refine.alr)
    for name, value in run(net, refine).items():
        torch.testing.assert_close(value, run(twin, other)[name])
    assert int(net.mix[1].num_batches_tracked) == 0
    torch._dynamo.reset()


class Lightning(nn.Module):
    """Host and refinement side by side in one module, as a LightningModule holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Generator()
        self.refine = LayoutRefinement(self.net.alr, decode=self.net.decode)
        self.balance = alr_layers.TermBalance(alr=0.1)

    def training_step(self, step: int) -> Tensor:
        given = inputs()
        h = given["features"].requires_grad_()
        image, layout = self.net.stage(h, given["words"], given["lengths"])
        host = self.net.head(image).square().mean()
        return self.balance(host, self.refine(layout=layout, **given), at=h, step=step)


def test_one_module_around_both():
    module = Lightning()
    names = list(module.state_dict())
    assert len(names) == len(set(names))
    assert not any(name.startswith("refine.") and ".mix." in name for name in names)
    ids = [id(parameter) for parameter in module.parameters()]
    assert len(ids) == len(set(ids))
    module.training_step(0).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    twin = Lightning()
    twin.load_state_dict(module.state_dict())
    copied = copy.deepcopy(module)
    assert copied.refine._host[0] is copied.net.alr
    for other in (twin, copied):
        torch.testing.assert_close(other.training_step(1), module.training_step(1))


def test_a_frozen_generator_still_trains_the_refinement():
    net = Generator().requires_grad_(False)
    refine = LayoutRefinement(net.alr, decode=net.decode)
    sum(run(net, refine).values()).backward()
    assert all(parameter.grad is not None for parameter in refine.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
