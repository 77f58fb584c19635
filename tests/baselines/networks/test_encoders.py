import pytest
import timm
import torch
import torchvision

from baselines.networks.encoders import ImageEncoder, TextEncoder

CAPTIONS = torch.tensor([[3, 1, 0, 0], [5, 2, 7, 4], [6, 0, 0, 0]])
LENGTHS = torch.tensor([2, 4, 1])


@pytest.fixture
def text_encoder():
    torch.manual_seed(0)
    return TextEncoder(9, embedding_dim=6, token_dim=5).eval()


def test_text_features_equal_each_caption_alone_in_any_order(text_encoder):
    features = text_encoder(CAPTIONS, LENGTHS)
    assert features.words.shape == (3, 6, 4) and features.sentence.shape == (3, 6)
    for row, length in enumerate(LENGTHS):
        alone = text_encoder(CAPTIONS[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(features.words[row, :, :length], alone.words[0])
        torch.testing.assert_close(features.sentence[row], alone.sentence[0])
        assert (features.words[row, :, length:] == 0).all()


def test_sentence_is_the_end_of_both_directions(text_encoder):
    features = text_encoder(CAPTIONS, LENGTHS)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(features.sentence[row, :3], features.words[row, :3, length - 1])
        torch.testing.assert_close(features.sentence[row, 3:], features.words[row, 3:, 0])


def test_padding_ids_do_not_matter_and_dropout_is_for_training(text_encoder):
    changed = CAPTIONS.clone()
    changed[0, 2:] = 8
    assert torch.equal(text_encoder(CAPTIONS, LENGTHS).words, text_encoder(changed, LENGTHS).words)
    text_encoder.train()
    assert not torch.equal(
        text_encoder(CAPTIONS, LENGTHS).words, text_encoder(CAPTIONS, LENGTHS).words
    )


def test_text_encoder_names_bad_input(text_encoder):
    with pytest.raises(ValueError, match=r"\(4,\) and \(3,\)"):
        text_encoder(CAPTIONS[0], LENGTHS)
    with pytest.raises(ValueError, match="two directions, got 7"):
        TextEncoder(9, embedding_dim=7)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_small_trunk_has_eight_by_eight_regions_and_learns(size):
    encoder = ImageEncoder(embedding_dim=12, trunk="small", input_size=size)
    features = encoder(torch.randn(2, 3, 64, 64))
    assert features.regions.shape == (2, 12, 8, 8) and features.code.shape == (2, 12)
    assert encoder.region_size == 8
    (features.regions.mean() + features.code.mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_small_trunk_sees_every_image_alone():
    encoder = ImageEncoder(embedding_dim=12, trunk="small", input_size=32)
    images = torch.randn(3, 3, 32, 32)
    for training in (True, False):
        together = encoder.train(training)(images)
        alone = encoder(images[1:2])
        torch.testing.assert_close(together.regions[1], alone.regions[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.code[1], alone.code[0], atol=1e-5, rtol=1e-5)


def test_images_are_resized_with_aligned_corners():
    encoder = ImageEncoder(embedding_dim=4, trunk="small", input_size=32)
    seen = []
    encoder.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    encoder(ramp)
    torch.testing.assert_close(seen[0], torch.linspace(-1, 1, 32).expand(1, 3, 32, 32))


@pytest.fixture(scope="module")
def torchvision_inception():
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(
        weights=None, init_weights=False, transform_input=False
    ).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def test_inception_equals_torchvisions_with_its_own_file(torchvision_inception, tmp_path):
    path = tmp_path / "inception.pth"
    torch.save(torchvision_inception.state_dict(), path)
    encoder = ImageEncoder(embedding_dim=8, weights_file=path)
    taps = {}
    torchvision_inception.Mixed_6e.register_forward_hook(lambda *a: taps.update(regions=a[2]))
    torchvision_inception.avgpool.register_forward_hook(lambda *a: taps.update(code=a[2]))
    images = torch.rand(1, 3, 299, 299) * 2 - 1
    with torch.no_grad():
        torchvision_inception(images)
        regions, code = encoder.trunk(images)
        features = encoder(images)
    torch.testing.assert_close(regions, taps["regions"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(code, taps["code"].flatten(1), rtol=1e-3, atol=1e-5)
    assert features.regions.shape == (1, 8, 17, 17) and features.code.shape == (1, 8)
    assert encoder.region_size == 17


def test_frozen_trunk_keeps_weights_and_statistics_but_passes_gradients():
    encoder = ImageEncoder(embedding_dim=8, input_size=107).train()
    before = {k: v.clone() for k, v in encoder.trunk.state_dict().items()}
    images = torch.randn(2, 3, 107, 107, requires_grad=True)
    features = encoder(images)
    assert features.regions.shape[2:] == (encoder.region_size, encoder.region_size)
    (features.regions.square().mean() + features.code.square().mean()).backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in encoder.trunk.parameters())
    assert encoder.region_head.weight.grad is not None
    assert all(torch.equal(before[k], v) for k, v in encoder.trunk.state_dict().items())


def test_statistics_move_when_asked():
    encoder = ImageEncoder(embedding_dim=8, input_size=107, moving_statistics=True).train()
    before = encoder.trunk.net.Mixed_7c.branch1x1.bn.running_mean.clone()
    encoder(torch.randn(2, 3, 107, 107))
    assert not torch.equal(before, encoder.trunk.net.Mixed_7c.branch1x1.bn.running_mean)


@pytest.mark.parametrize("size", [64, 128])
def test_a_timm_trunk_takes_the_deepest_level_with_enough_regions(size):
    encoder = ImageEncoder(embedding_dim=8, trunk="tf_efficientnet_lite0", input_size=size)
    features = encoder(torch.randn(1, 3, size, size))
    assert features.regions.shape == (1, 8, 8, 8) and encoder.region_size == 8
    assert features.code.shape == (1, 8)


def test_weights_that_cannot_be_had_are_named(monkeypatch, tmp_path):
    def offline(*_, pretrained=False, **__):
        assert pretrained
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"inception_v3_google-\w+\.pth .*--image-weights FILE"):
        ImageEncoder(pretrained=True)
    with pytest.raises(ValueError, match=r"tf_efficientnet_lite0-\w+\.pth"):
        ImageEncoder(trunk="tf_efficientnet_lite0", pretrained=True)
    with pytest.raises(ValueError, match=r"no file .*nowhere\.pth"):
        ImageEncoder(weights_file=tmp_path / "nowhere.pth")


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"other\.pth does not hold torchvision's Inception-v3"):
        ImageEncoder(weights_file=path)


def test_a_file_of_a_timm_trunk_must_hold_all_of_it(tmp_path):
    path, kind = tmp_path / "weights.pth", {"trunk": "resnet18", "input_size": 64}
    state = timm.create_model("resnet18").state_dict()  # with the classifier, as torchvision's
    torch.save(state, path)
    trunk = ImageEncoder(embedding_dim=4, weights_file=path, **kind).trunk.net
    assert torch.equal(trunk.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    del state["layer4.1.conv2.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"weights\.pth .* resnet18: 1 of .* layer4\.1\.conv2"):
        ImageEncoder(weights_file=path, **kind)
    path.write_bytes(b"not a file of weights")
    with pytest.raises(ValueError, match=r"weights\.pth: cannot be read as weights"):
        ImageEncoder(weights_file=path, **kind)


def test_a_timm_trunk_built_without_values_works_once_it_is_loaded():
    kind = {"embedding_dim": 4, "trunk": "resnet18", "input_size": 64}
    encoder = ImageEncoder(**kind).eval()
    with torch.device("meta"):
        empty = ImageEncoder(**kind).eval()
    empty.load_state_dict(encoder.state_dict(), assign=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(empty(images).code, encoder(images).code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trunk": "inception_v9"}, "unknown image encoder trunk 'inception_v9'"),
        ({"trunk": "small", "input_size": 48}, "got 48"),
        ({"trunk": "small", "input_size": 32, "pretrained": True}, "no pretrained weights"),
        ({"input_size": 32}, "at least 75, got 32"),
    ],
)
def test_image_encoder_names_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageEncoder(**arguments)


def test_image_encoder_names_bad_images():
    encoder = ImageEncoder(embedding_dim=4, trunk="small", input_size=32)
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(2, 1, 32, 32\)"):
        encoder(torch.zeros(2, 1, 32, 32))
