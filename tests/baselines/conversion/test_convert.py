import json
import os
import pickle
import sys

import pytest
import torch

from baselines import convert
from baselines.cli import run_command
from baselines.conversion import convert as conversion
from baselines.convert import ConversionError, from_original, to_original
from baselines.hosts.attngan.fusion import WordAttention
from baselines.hosts.dmgan.fusion import DynamicMemory
from baselines.networks.discriminators import Discriminator
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import StackedGenerator
from baselines.runs import load_run
from baselines.training.checkpoint import CheckpointError
from tests.baselines.networks import torch03

SMALL = {"feature_dim": 2, "embedding_dim": 8, "condition_dim": 3, "noise_dim": 4}
WORDS = ["a", "bird", "red", "small", "with"]


def generator(fusion=WordAttention, **sizes):
    torch.manual_seed(0)
    return StackedGenerator(**(SMALL | {"fusion": fusion} | sizes))


def discriminator(size=64, **sizes):
    torch.manual_seed(size)
    return Discriminator(**({"image_size": size, "feature_dim": 2, "embedding_dim": 8} | sizes))


def text_encoder():
    torch.manual_seed(1)
    return TextEncoder(len(WORDS) + 1, embedding_dim=8, token_dim=5)


@pytest.fixture(scope="module")
def image_encoder():
    torch.manual_seed(2)
    return ImageEncoder(embedding_dim=8)


@pytest.fixture
def captions(tmp_path):
    words = dict(enumerate(["<end>", *WORDS]))
    path = tmp_path / "captions.pickle"
    path.write_bytes(
        pickle.dumps([[[1, 2]], [[3]], words, {w: i for i, w in words.items()}], protocol=2)
    )
    return path


MAKERS = {
    "attngan": generator,
    "attndcgan": lambda: generator(residual_blocks=0, single_image=True),
    "dmgan": lambda: generator(DynamicMemory, residual_blocks=3),
    "two stages": lambda: generator(stages=2),
    "text encoder": text_encoder,
    **{f"batch {s}": lambda s=s: discriminator(s) for s in (64, 128, 256)},
    **{f"spectral {s}": lambda s=s: discriminator(s, norm="spectral") for s in (64, 128, 256)},
    "conditional": lambda: discriminator(256, unconditional=False),
}


def assert_same(ours, back):
    assert type(back) is type(ours) and not back.training
    assert back.state_dict().keys() == ours.state_dict().keys()
    for key, value in ours.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key
    trained = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert {name for name, p in back.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back(name):
    ours = MAKERS[name]()
    state = to_original(ours)
    back = from_original(state)
    assert_same(ours, back)
    if isinstance(ours, StackedGenerator):
        assert back.legacy_mask
        assert type(back.stages[0].fusion) is type(ours.stages[0].fusion)
    next(iter(back.parameters())).data.zero_()
    assert_same(ours, from_original(state))  # the given state was neither kept nor changed


def test_image_encoder_there_and_back_with_what_old_files_carry(image_encoder):
    state = to_original(image_encoder)
    extra = {"fc.weight": torch.zeros(10, 2048), "AuxLogits.conv0.conv.weight": torch.zeros(1)}
    assert_same(image_encoder, from_original(state | extra))


def test_keys_behind_module_and_without_batch_counters():
    ours = discriminator(128, norm="spectral")
    assert_same(ours, from_original({f"module.{k}": v for k, v in to_original(ours).items()}))
    ours = generator()
    old = {k: v for k, v in to_original(ours).items() if "num_batches_tracked" not in k}
    assert_same(ours, from_original(old))


def test_a_file_of_torch_0_3(tmp_path, captions):
    ours = generator()
    old = {k: v for k, v in to_original(ours).items() if "num_batches_tracked" not in k}
    torch03.save(old, tmp_path / "bird_AttnGAN2.pth")
    convert.main([str(tmp_path / "bird_AttnGAN2.pth"), "--out", str(tmp_path / "out")])
    described = json.loads((tmp_path / "out" / "generator.json").read_text())
    assert described["feature_dim"] == 2 and described["legacy_mask"]
    assert described["name"] == "attngan"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("ca_net.fc.weight"), "no network that can be converted"),
        (lambda s: s.pop("h_net2.upsample.2.bias"), "missing: h_net2.upsample.2.bias"),
        (lambda s: s.update(mapping=torch.zeros(1)), "not expected: mapping"),
        (
            lambda s: s.update({"img_net2.img.0.weight": torch.zeros(3, 9, 3, 3)}),
            r"img_net2.img.0.weight: shape \(3, 9, 3, 3\), expected \(3, 2, 3, 3\)",
        ),
        (lambda s: s.update(epoch=3), "not a plain state_dict of tensors: 'epoch': int"),
        (lambda s: s.pop("img_net1.img.0.weight"), "sizes do not fit: 'img_net1.img.0.weight'"),
    ],
)
def test_what_does_not_fit_is_listed(change, message):
    state = to_original(generator())
    change(state)
    with pytest.raises(ConversionError, match=message):
        from_original(state)


def test_foreign_networks_are_refused():
    with pytest.raises(ConversionError, match=r"found conv1\.weight"):
        from_original({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ConversionError, match="found no entries"):
        from_original({})
    gru = to_original(text_encoder())
    gru = {k: v[: 3 * v.shape[0] // 4] if k.startswith("rnn") else v for k, v in gru.items()}
    with pytest.raises(ConversionError, match="GRU"):
        from_original(gru)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: generator(base_size=16), "starts at 16 px"),
        (lambda: generator(stages=4), "has 4 stages"),
        (lambda: discriminator(32), "none for 32"),
        (lambda: ImageEncoder(trunk="small", input_size=32), "this one is small"),
        (lambda: torch.nn.Linear(2, 2), "no counterpart of Linear"),
    ],
)
def test_what_the_originals_cannot_hold_is_refused(module, message):
    with pytest.raises(ConversionError, match=message):
        to_original(module())


def test_a_converted_set_is_a_run_directory_and_can_be_exported(tmp_path, image_encoder, captions):
    networks = {"text": text_encoder(), "image": image_encoder, "G": generator(DynamicMemory)}
    networks["D"] = discriminator(norm="spectral")
    files = [tmp_path / f"{name}.pth" for name in networks]
    for file, network in zip(files, networks.values(), strict=True):
        torch.save(to_original(network), file)
    out = tmp_path / "run"
    convert.main([*map(str, files), "--captions", str(captions), "--out", str(out)])
    run = load_run(out)
    assert run.config.model.name == "dmgan" and run.generator.legacy_mask
    assert run.config.data.max_words == 25
    assert run.encoders.vocabulary.words == ("<end>", *WORDS)
    assert_same(networks["G"], run.generator)
    assert_same(networks["text"], run.encoders.text)
    assert_same(networks["image"], run.encoders.image)
    assert (out / "discriminator_64.safetensors").is_file()

    convert.main(["--export", str(out), "--out", str(tmp_path / "old")])
    for name, file in {"G": "netG", "text": "text_encoder", "image": "image_encoder"}.items():
        state = torch.load(tmp_path / "old" / f"{file}.pth", weights_only=True)
        assert_same(networks[name], from_original(state))
    words = pickle.loads((tmp_path / "old" / "captions.pickle").read_bytes())[2]
    assert words == dict(enumerate(["<end>", *WORDS]))


def test_parts_that_do_not_belong_together_are_refused(
    tmp_path, image_encoder, captions, monkeypatch
):
    # A child process for each of eight files would take longer than all the rest.
    monkeypatch.setattr(
        conversion, "read_foreign", lambda path: torch.load(path, weights_only=True)
    )
    torch.manual_seed(0)
    parts = {"text": TextEncoder(9, embedding_dim=8, token_dim=5), "G": generator()}
    parts["image"] = image_encoder
    files = [tmp_path / f"{name}.pth" for name in parts]
    for file, network in zip(files, parts.values(), strict=True):
        torch.save(to_original(network), file)
    with pytest.raises(ConversionError, match=r"has 6 words, .* trained with 9"):
        convert.convert(files, tmp_path / "out", captions, "cub")
    torch.save(to_original(TextEncoder(6, embedding_dim=6, token_dim=5)), files[0])
    with pytest.raises(ConversionError, match=r"'text encoder': 6, 'image encoder': 8"):
        convert.convert(files, tmp_path / "out", captions, "cub")
    with pytest.raises(ConversionError, match="a second generator"):
        convert.convert([files[1], files[1]], tmp_path / "out", None, "cub")


class _Malice:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_in_a_malicious_file_runs(tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"ca_net.fc.weight": _Malice(marker)}, file)
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        convert.convert([file], tmp_path / "out", None, "cub")
    evil = tmp_path / "captions.pickle"
    evil.write_bytes(pickle.dumps([_Malice(marker)]))
    with pytest.raises(ValueError, match=r"captions\.pickle"):
        convert.convert([], tmp_path / "out", evil, "cub")
    assert not marker.exists()


def test_the_command_answers_a_wrong_file_in_one_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    monkeypatch.setattr(sys, "argv", ["convert", str(file), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        run_command(convert.main)
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1 and "other.pth: no network that can be converted" in message[0]
