"""attach: what it hooks, copies of host and refinement, wrappers, precision, and every refusal."""

import copy
import functools
import gc
import io
import pickle
import weakref

import pytest
import torch
import torch._functorch.config
from torch import Tensor, nn

from alr_layers import ALRLoss, TermBalance, attach
from tests.adoption.data import BATCH, load_batch, text_encoder
from tests.adoption.hosts import attngan, dfgan, stackgan

SIZES = (8, 16, 32)
TEXT = text_encoder(attngan.EMBEDDING)


def network(kind: type[nn.Module] = attngan.G_NET) -> nn.Module:
    torch.manual_seed(3)
    return kind()


def inputs(step: int = 0) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    imgs, captions, cap_lens = load_batch(step, SIZES)
    words, sentence = TEXT(captions, cap_lens)
    mask = (captions == 0)[:, : words.size(2)]
    noise = torch.randn(BATCH, attngan.Z_DIM, generator=torch.Generator().manual_seed(step))
    return imgs, (noise, sentence, words, mask)


def loss_of(netG: nn.Module, refine: nn.Module, step: int = 0) -> Tensor:
    imgs, args = inputs(step)
    torch.manual_seed(step)
    images = netG(*args)[0]
    return refine(sum(image.square().mean() for image in images), imgs, step=step)


def test_it_finds_stages_heads_and_sizes():
    refine = attach(network())
    assert [part.alr.feature_dim for part in refine.refinements] == [8, 8]
    assert [part.encoder.downsample for part in refine.refinements] == [2, 2]
    assert not refine.sources, "the attention is the host's"
    names = {name.split(".")[0] for name in refine.state_dict()}
    assert names == {"refinements", "balance"}
    assert "generator=G_NET (the host's)" in repr(refine)
    halves = attach(network(stackgan.G_NET), word_dim=12)
    assert [part.alr.feature_dim for part in halves.refinements] == [16, 8]
    assert [source.word_dim for source in halves.sources] == [12, 12]


def test_the_layout_is_the_hosts_own_attention():
    netG = network()
    refine = attach(netG)
    _, args = inputs()
    attention = netG(*args)[1]
    hosts = refine._stages
    for host, wanted in zip(hosts, attention, strict=True):
        assert host.fake_layout(None, None) is wanted
    features = torch.randn(BATCH, 8, 8, 8)
    netG.eval()
    stage = hosts[0]
    wanted = netG.h_net2(features, torch.randn(BATCH, 6), *args[2:])[1]
    assert torch.equal(stage.layout(features, args[2], torch.ones(BATCH)), wanted)
    image = netG.img_net2(netG.h_net2(features, torch.randn(BATCH, 6), *args[2:])[0])
    assert torch.equal(stage.decode(features, args[2], torch.ones(BATCH)), image)
    assert stage.call.features.shape == (BATCH, 8, 8, 8), "decoding is not taken for drawing"


@pytest.mark.parametrize("decode", ["stage", "head", "generator"])
def test_every_reading_of_the_decoder_trains(decode):
    netG = network()
    optimizer = torch.optim.Adam(netG.parameters(), lr=1e-3)
    options = {"downsample": 4, "stages": ["h_net2"]} if decode == "generator" else {}
    balance = TermBalance(alr=0.05, lvr=0.02, reconstruction=0.5)
    refine = attach(netG, optimizer=optimizer, decode=decode, balance=balance, **options)
    loss_of(netG, refine).backward()
    for name, parameter in [*refine.named_parameters(), *netG.named_parameters()]:
        # img_net3 decodes nothing of a "head", yet the host's loss reaches it.
        assert parameter.grad is not None, name
    assert all(report["scale"] > 0 for report in refine.balance.report().values())


def test_the_optimizer_takes_the_new_parameters_once():
    netG = network()
    optimizer = torch.optim.Adam(netG.parameters(), lr=1e-3, betas=(0.5, 0.999))
    optimizer.param_groups[0]["lr"] = 5e-4  # as a schedule leaves it
    refine = attach(netG, optimizer=optimizer)
    group = optimizer.param_groups[1]
    assert (group["lr"], group["betas"]) == (5e-4, (0.5, 0.999))
    assert {id(p) for p in group["params"]} == {id(p) for p in refine.parameters()}


def test_own_gradients_do_not_pile_up_over_steps_but_do_within_one():
    netG = network()
    refine = attach(netG)
    weight = refine.refinements[0].encoder.layers[0].weight

    def gradient(step: int) -> Tensor:
        loss_of(netG, refine, step).backward()
        return weight.grad.clone()

    once = gradient(0)
    assert torch.allclose(gradient(0), 2 * once, rtol=1e-3, atol=1e-7), "two micro-batches"
    again = gradient(1)
    fresh_net = network()
    fresh = attach(fresh_net)
    fresh.load_state_dict(refine.state_dict())
    fresh_net.load_state_dict(netG.state_dict())
    loss_of(fresh_net, fresh, 1).backward()
    torch.testing.assert_close(fresh.refinements[0].encoder.layers[0].weight.grad, again)


def test_building_it_leaves_the_random_stream_alone():
    netG = network()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    attach(netG)
    assert torch.equal(torch.rand(3), wanted)


def test_passes_without_gradient_are_not_looked_at():
    netG = network()
    refine = attach(netG)
    imgs, args = inputs()
    with torch.no_grad():
        netG(*args)
    with pytest.raises(RuntimeError, match="the generator has not run with gradients"):
        refine(torch.zeros((), requires_grad=True), imgs, step=0)


def test_before_the_start_nothing_is_evaluated():
    netG = network()
    refine = attach(netG, balance=TermBalance(alr=0.1, start=3))
    imgs, args = inputs()
    host_loss = netG(*args)[0][0].mean()
    assert refine(host_loss, imgs, step=2) is host_loss
    assert refine._stages[0].call is None, "and nothing is kept"


def test_one_size_of_real_images_will_do():
    netG = network()
    refine = attach(netG)
    imgs, args = inputs()
    for real in (imgs, imgs[::-1], imgs[-1]):
        images = netG(*args)[0]
        assert refine(images[-1].mean(), real, step=0).isfinite()


def through_file(pair: object) -> object:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair)), through_file]
)
@pytest.mark.parametrize("refinement_first", [True, False])
def test_copied_together_they_stay_tied(twin, refinement_first):
    netG = network()
    refine = attach(netG)
    wanted = loss_of(netG, refine)
    pair = (refine, netG) if refinement_first else (netG, refine)
    copied = twin(pair)
    other, other_net = copied if refinement_first else reversed(copied)
    assert other._host[0] is other_net
    with torch.no_grad():
        other_net.img_net2.img[0].weight.mul_(3)
    assert loss_of(other_net, other) != loss_of(netG, refine)
    assert loss_of(netG, refine) == wanted
    assert len(other_net.h_net2._forward_hooks) == 1, "no hooks of the original left"


def test_a_copy_of_the_generator_alone_is_free():
    netG = network()
    refine = attach(netG)
    average = copy.deepcopy(netG)
    pickle.loads(pickle.dumps(netG))
    _, args = inputs()
    netG(*args)
    kept = refine._stages[0].call
    average(*args)
    assert refine._stages[0].call is kept
    assert list(average.state_dict()) == list(network().state_dict())


def test_the_generator_does_not_keep_the_refinement_alive():
    netG = network()
    refine = attach(netG)
    kept = weakref.ref(refine)
    netG(*inputs()[1])
    del refine
    gc.collect()
    assert kept() is None
    netG(*inputs()[1])
    again = attach(netG)
    assert len(netG.h_net2._forward_hooks) == 1, "the hook of the one before is dropped"
    again.remove()
    assert not netG.h_net2._forward_hooks and not netG._forward_pre_hooks


def test_a_compiled_generator():
    """Its graph breaks at the stages, so that h is a tensor that the generator goes on with."""
    torch._dynamo.reset()
    netG, twin = network(), network()
    compiled = torch.compile(netG, backend="aot_eager")
    refine, other = attach(compiled), attach(twin)
    with pytest.raises(RuntimeError, match=r"donated_buffer = False before the host is first run"):
        loss_of(compiled, refine)
    torch._dynamo.reset()
    other.load_state_dict(refine.state_dict())
    twin.load_state_dict(netG.state_dict())
    with torch._functorch.config.patch(donated_buffer=False):
        torch.testing.assert_close(loss_of(compiled, refine), loss_of(twin, other))
    torch.testing.assert_close(refine.balance.state_dict(), other.balance.state_dict())
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_with_a_scaler(dtype):
    netG = network()
    optimizer = torch.optim.SGD(netG.parameters(), lr=1e-3)
    refine = attach(netG, optimizer=optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = loss_of(netG, refine, step)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 1024.0, "no step was skipped"
    for report in refine.balance.report().values():
        assert 0 < report["scale"] < 1e6


class Captioned(nn.Module):
    """A stage called by keyword, without words, returning features alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, *, code: Tensor, scale: float) -> Tensor:
        return self.conv(nn.functional.interpolate(code, scale_factor=2)) * scale


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.stage, self.rgb = nn.Conv2d(4, 4, 1), Captioned(), nn.Conv2d(4, 3, 1)

    def forward(self, code: Tensor) -> Tensor:
        return self.rgb(self.stage(code=self.body(code), scale=0.5)).tanh()


def test_names_keywords_and_sizes_of_ones_own():
    net = Own()
    refine = attach(
        net,
        stages=["stage"],
        heads=["rgb"],
        feature_dims=[4],
        word_dim=12,
        alr=functools.partial(ALRLoss, max_words=40, gamma=0.2),
        use_lvr=False,
    )
    assert refine.refinements[0].alr.gamma == 0.2
    image = net(torch.randn(BATCH, 4, 8, 8))
    words, lengths = torch.randn(BATCH, 12, 30), torch.full((BATCH,), 30)
    loss = refine(
        image.mean(), torch.rand(BATCH, 3, 16, 16) - 0.5, step=0, words=words, lengths=lengths
    )
    loss.backward()
    assert list(refine.balance.report()) == ["alr"]
    assert refine.sources[0].word_projection.weight.grad is not None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: attach("netG"), TypeError, "generator is a str"),
        (lambda: attach(dfgan.NetG()), ValueError, "NetG has no refinement stages h_net2"),
        (lambda: attach(network(), decode="all"), ValueError, "decode is 'all'"),
        (
            lambda: attach(network(stackgan.G_NET)),
            ValueError,
            r"h_net2 has no attention of its own.*attach\(\.\.\., word_dim=",
        ),
        (
            lambda: attach(network(), stages=["h_net2", "h_net9"], heads=["img_net2"] * 2),
            ValueError,
            "the number of channels that h_net9|has no h_net9",
        ),
        (
            lambda: attach(network(), heads=["img_net2", "head"]),
            ValueError,
            r"G_NET has no head; .*out of: ca_net, h_net1",
        ),
        (lambda: attach(network(), heads=["img_net2"]), ValueError, "heads has 1 entries"),
        (
            lambda: attach(dfgan.NetG(), stages=["GBlocks.1"], heads=["to_rgb"], word_dim=12),
            ValueError,
            r"channels that GBlocks.1 reads .* feature_dims=",
        ),
        (
            lambda: attach(dfgan.NetG(), stages=["GBlocks.1"], decode="generator"),
            ValueError,
            "needs downsample",
        ),
        (
            lambda: attach(dfgan.NetG(), stages=["GBlocks.1"], feature_dims=[32]),
            ValueError,
            r"stage 'GBlocks.1' has a name of its own: name its image head",
        ),
    ],
)
def test_what_cannot_be_found_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_words_of_a_host_without_attention_must_be_handed_over():
    netG = network(stackgan.G_NET)
    refine = attach(netG, word_dim=12)
    imgs, (noise, sentence, _, _) = inputs()
    images = netG(noise, sentence)[0]
    with pytest.raises(ValueError, match=r"NEXT_STAGE_G has no attention .* words=\.\.\."):
        refine(images[-1].mean(), imgs, step=0)


def test_a_stage_without_an_attention_map_is_named():
    netG = network(stackgan.G_NET)
    refine = attach(netG, own_layout=False)
    imgs, (noise, sentence, _, _) = inputs()
    images = netG(noise, sentence)[0]
    with pytest.raises(TypeError, match=r"returns no attention map .* own_layout=True"):
        refine(images[-1].mean(), imgs, step=0)


def test_a_stage_that_has_none_for_an_attention_has_none():
    netG = network(stackgan.G_NET)
    netG.h_net2.att = netG.h_net3.att = None
    assert len(attach(netG, word_dim=12).sources) == 2


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "real_images is empty"),
        ([torch.zeros(2, 3, 8, 8).numpy()], TypeError, "real_images is a ndarray, expected"),
        ([torch.zeros(2, 8, 8, 3, dtype=torch.uint8)], TypeError, r"dtype torch\.uint8, expected"),
    ],
)
def test_real_images_that_are_none(images, error, message):
    netG = network()
    refine = attach(netG)
    host = netG(*inputs()[1])[0][-1].mean()
    with pytest.raises(error, match=message):
        refine(host, images, step=0)


def test_a_loss_that_has_been_differentiated_is_named():
    netG = network()
    refine = attach(netG)
    imgs, args = inputs()
    host = netG(*args)[0][-1].square().mean()
    host.backward()
    with pytest.raises(RuntimeError, match=r"differentiated already .* before backward\(\)"):
        refine(host, imgs, step=0)


def test_data_parallel_over_several_devices_is_refused_by_name():
    netG = network()
    refine = attach(nn.DataParallel(netG))
    with pytest.raises(RuntimeError, match="DataParallel splits over several devices"):
        refine.observe(None, netG._replicate_for_data_parallel(), (), {})


def test_one_word_is_warned_of():
    netG = network()
    refine = attach(netG)
    imgs, (noise, sentence, words, mask) = inputs()
    images = netG(noise, sentence, words[..., :1], mask[:, :1])[0]
    with pytest.warns(UserWarning, match="hand over word embeddings"):
        refine(images[-1].mean(), imgs, step=0)
