import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from baselines import evaluate
from baselines.metrics.image_text import EncoderError, ImageTextJudge, open_clip_encoder
from tests.baselines.metrics.toy_encoder import ToyEncoder

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def test_probabilities_are_a_softmax_of_scaled_cosines():
    judge = ImageTextJudge(ToyEncoder(logit_scale=7.0))
    levels = torch.tensor([0.9, -0.2])
    codes = judge(levels[:, None, None, None].expand(2, 3, 4, 4)).code
    assert codes.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    found = judge.probabilities(codes, [("a above b", "a below b"), ("a below b", "a above b")])
    for level, (first, second), turned in zip((0.9, -0.2), found.tolist(), (1, -1), strict=True):
        angle = (1 - level) * math.pi / 4
        apart = 7.0 * (math.cos(angle) - math.sin(angle)) * turned
        assert first == pytest.approx(1 / (1 + math.exp(-apart)), abs=1e-6)
        assert first + second == pytest.approx(1.0)


def test_every_text_is_encoded_once():
    encoder = ToyEncoder()
    judge = ImageTextJudge(encoder)
    assert torch.equal(judge.texts(["b", "a", "b"])[0], judge.texts(["b"])[0])
    assert encoder.encoded == ["b", "a"]


class Network(torch.nn.Module):
    """As open_clip's: the mean of the normalised pixels of each channel; texts of their ids."""

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(50.0)))
        self.visual = SimpleNamespace(image_size=(16, 16), image_mean=MEAN, image_std=STD)
        self.seen = []

    def encode_image(self, images):
        self.seen.append(images)
        return images.mean(dim=(2, 3))

    def encode_text(self, ids):
        return ids.float()


@pytest.fixture
def package(monkeypatch):
    """A stand-in for open_clip, and what it was asked for."""
    asked = []

    def create_model(name, *, pretrained, device):
        asked.append((name, pretrained))
        if pretrained == "openai":
            raise RuntimeError("no network here")
        if not pretrained.endswith("good.pt"):
            raise RuntimeError("Missing keys")
        return Network()

    module = ModuleType("open_clip")
    module.create_model = create_model
    module.get_tokenizer = lambda name: lambda texts: torch.tensor([[len(t), 1] for t in texts])
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return asked


def test_images_are_preprocessed_as_files_are(package, tmp_path):
    (tmp_path / "good.pt").touch()
    encoder = open_clip_encoder("ViT-B-32", file=tmp_path / "good.pt", device=CPU)
    assert package == [("ViT-B-32-quickgelu", str(tmp_path / "good.pt"))]
    assert encoder.logit_scale == pytest.approx(50.0)
    assert encoder.settings["encoder"] == "ViT-B-32" and encoder.settings["weights"]
    levels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    encoder.images(pil_to_tensor(picture)[None].float() / 127.5 - 1)
    (seen,) = encoder.network.seen
    # Pillow's own: the shorter side to 16, antialiased bicubic, then the centre.
    resized = np.asarray(picture.resize((24, 16), Image.Resampling.BICUBIC))[:, 4:20]
    wanted = (resized / 255 - np.array(MEAN)) / np.array(STD)
    apart = (seen[0].permute(1, 2, 0).numpy() - wanted) * np.array(STD) * 255
    assert seen.shape == (1, 3, 16, 16) and np.abs(apart).max() <= 1.01
    assert encoder.texts(["abc", "a"]).tolist() == [[3.0, 1.0], [1.0, 1.0]]


def test_what_cannot_be_had_is_named(package, tmp_path, monkeypatch):
    (tmp_path / "bad.pt").touch()
    with pytest.raises(EncoderError, match=r"could not be fetched.*--clip-weights FILE"):
        open_clip_encoder("ViT-B-32", device=CPU)
    with pytest.raises(EncoderError, match=r"bad.pt: not the weights of CLIP ViT-L-14"):
        open_clip_encoder("ViT-L-14", file=tmp_path / "bad.pt", device=CPU)
    with pytest.raises(EncoderError, match=r"none.pt: no such file"):
        open_clip_encoder("ViT-B-32", file=tmp_path / "none.pt", device=CPU)
    with pytest.raises(EncoderError, match="nearest is 'ViT-B-32'"):
        open_clip_encoder("ViT-B32", device=CPU)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(EncoderError, match="pip install open_clip_torch"):
        evaluate.main(["--images-from", str(tmp_path), "--clip", "ViT-B-32", "--device", "cpu"])


def test_the_real_package_reads_its_own_file(tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="pip install open_clip_torch")
    torch.manual_seed(0)
    made = open_clip.create_model("ViT-B-32-quickgelu").eval()
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    encoder = open_clip_encoder("ViT-B-32", file=tmp_path / "weights.pt", device=CPU)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        preprocess = open_clip.image_transform(224, is_train=False)
        levels = images[0].add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        wanted = made.encode_image(preprocess(Image.fromarray(levels))[None])
        assert torch.allclose(encoder.images(images), wanted, atol=0.02)
        texts = ["a cat above a dog"]
        ids = open_clip.get_tokenizer("ViT-B-32")(texts)
        assert torch.allclose(encoder.texts(texts), made.encode_text(ids), atol=1e-5)
