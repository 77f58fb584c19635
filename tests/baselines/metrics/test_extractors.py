import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from baselines.metrics import inception
from baselines.metrics.evaluation import Options
from baselines.metrics.evaluation import evaluate as measure
from baselines.metrics.extractors import ExtractorError, open_extractor, weights_hash
from baselines.metrics.inception import resize_like_tensorflow1
from baselines.networks.encoders import ImageEncoder
from baselines.runs import load_run
from tests.support.tiny_run import make_tiny_run

CPU = torch.device("cpu")


class Means(nn.Module):
    """Stands in for an Inception: the mean of every channel, widened to 2048."""

    def __init__(self, width: int = 2048) -> None:
        super().__init__()
        self.mix = nn.Linear(3, width)

    def forward(self, pixels):
        return self.mix(pixels.mean(dim=(2, 3)))


@pytest.fixture
def scripted(tmp_path):
    def write(network):
        path = tmp_path / "network.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 299, 299)), path)
        return path

    return write


def test_tensorflows_resize_samples_without_a_shift():
    image = np.random.default_rng(0).random((5, 7))
    side = 11
    expected = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            v, u = y * 5 / side, x * 7 / side
            top, left = int(v), int(u)
            bottom, right = min(top + 1, 4), min(left + 1, 6)
            a, b = v - top, u - left
            expected[y, x] = (
                image[top, left] * (1 - a) * (1 - b) + image[top, right] * (1 - a) * b
                + image[bottom, left] * a * (1 - b) + image[bottom, right] * a * b
            )  # fmt: skip
    got = resize_like_tensorflow1(torch.from_numpy(image)[None, None].expand(1, 3, 5, 7), side)
    np.testing.assert_allclose(got[0, 1], expected, atol=1e-6)


def test_a_torchscript_file_gets_pixels_in_its_own_range(scripted):
    torch.manual_seed(0)
    network = Means()
    extractor = open_extractor(
        "inception-2015", None, files={"inception-2015": scripted(network)}, device=CPU
    )
    levels = torch.tensor([-1.0, 0.0, 1.0])
    features = extractor(levels[:, None, None, None].expand(3, 3, 16, 16))
    # -1, 0 and 1 are the bytes 0, 128 (127.5 rounded to even) and 255.
    inputs = ((torch.tensor([0.0, 128.0, 255.0]) - 128) / 128)[:, None].expand(3, 3)
    torch.testing.assert_close(features.pooled, network.mix(inputs))
    assert features.logits is None and not extractor.has_classifier
    assert extractor.provenance.extractor == "inception-2015"


def test_a_network_with_other_features_is_refused(scripted):
    extractor = open_extractor(
        "inception-2015", None, files={"inception-2015": scripted(Means(1008))}, device=CPU
    )
    with pytest.raises(ExtractorError, match=r"\(2, 1008\); expected \(B, 2048\)"):
        extractor(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("name", ["inception-2015", "torchvision-imagenet"])
def test_a_file_that_would_run_code_is_not_unpickled(name, tmp_path):
    pytest.importorskip("torch_fidelity")
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(ExtractorError, match=r"weights.pth"):
        open_extractor(name, None, files={name: file}, device=CPU)
    assert not trap.exists()


def test_weights_of_torchvision_are_read_and_preprocessed_as_dmgan_does(tmp_path):
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    network = inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    extractor = open_extractor(
        "torchvision-imagenet",
        None,
        files={"torchvision-imagenet": tmp_path / "inception.pth"},
        device=CPU,
    )
    bytes_ = torch.randint(0, 256, (1, 3, 299, 299)).float()
    scale, shift = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
    by_hand = bytes_ / 255 * (scale / 0.5)[:, None, None] + ((shift - 0.5) / 0.5)[:, None, None]
    with torch.inference_mode():
        got, logits = extractor(bytes_ / 127.5 - 1), network(by_hand)
    assert got.pooled.shape == (1, 2048) and extractor.has_classifier
    torch.testing.assert_close(got.logits, logits, rtol=1e-3, atol=1e-4)


def test_the_hash_tells_weights_apart_and_nothing_else():
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4), nn.Linear(3, 4)
    assert weights_hash(first) != weights_hash(second)
    second.load_state_dict(first.state_dict())
    assert weights_hash(first) == weights_hash(second.eval())
    assert weights_hash(nn.BatchNorm1d(2)) != weights_hash(nn.Linear(2, 2))


def test_the_hash_is_that_of_the_network_and_not_of_its_file(scripted, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)).eval()
    wrapped = nn.ModuleDict({"trunk": network})
    from_script = inception.torchscript(scripted(network), CPU)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    state = torch.load(tmp_path / "weights.pth", weights_only=True)
    again = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
    again.load_state_dict(dict(sorted(state.items(), reverse=True)))
    assert len({weights_hash(n) for n in (network, wrapped, from_script, again)}) == 1


def test_logits_of_a_bird_classifier_are_divided_for_the_calibrated_score(scripted):
    extractor = open_extractor(
        "cub-classifier", None, files={"cub-classifier": scripted(Means(5))}, device=CPU
    )
    features = extractor(torch.rand(3, 3, 20, 20) * 2 - 1)
    assert extractor.has_classifier and features.logits.shape == (3, 5)
    with pytest.raises(ExtractorError, match=r"give a TorchScript file .* --weights"):
        open_extractor("cub-classifier", None, device=CPU)


def test_dinov2_is_timms_class_token_of_normalised_images(tmp_path, monkeypatch):
    import timm

    monkeypatch.setattr(inception, "DINO_NAME", "vit_small_patch14_dinov2.lvd142m")
    network = timm.create_model(
        inception.DINO_NAME, pretrained=False, num_classes=0, img_size=224
    ).eval()
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    extractor = open_extractor("dinov2", None, files={"dinov2": tmp_path / "dino.pth"}, device=CPU)
    bytes_ = torch.randint(0, 256, (1, 3, 224, 224)).float()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        tokens = network.forward_features((bytes_ / 255 - mean[:, None, None]) / std[:, None, None])
        got = extractor(bytes_ / 127.5 - 1).pooled
    torch.testing.assert_close(got, tokens[:, 0], rtol=1e-3, atol=1e-4)
    assert extractor.provenance.extractor == "dinov2"


def test_damsm_features_are_the_code():
    encoder = ImageEncoder(embedding_dim=8, trunk="small", input_size=32).eval()
    extractor = open_extractor("damsm", encoder, device=CPU)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(extractor(images).pooled, encoder(images).code)
    assert extractor.dimension == 8 and not extractor.has_classifier


def test_several_extractors_have_a_row_and_kept_statistics_each(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "INCEPTION_DIM", 16)
    run = load_run(make_tiny_run(tmp_path / "run"))
    options = Options(
        metrics=["fid"], extractors=["damsm", "inception-2015"], images=6, batch_size=3,
        weights={"inception-2015": scripted(Means(16))}, cache=tmp_path / "run",
    )  # fmt: skip
    first = measure(run, options)
    whole = {"fid/damsm", "fid/inception-2015"}
    assert set(first["metrics"]) == whole | {f"{row}/equal" for row in whole}
    assert (tmp_path / "run" / "reference-inception-2015.npz").is_file()
    assert measure(run, options)["metrics"]["fid/inception-2015"]["trained"]["value"] == (
        pytest.approx(first["metrics"]["fid/inception-2015"]["trained"]["value"], rel=1e-6)
    )
