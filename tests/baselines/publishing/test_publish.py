"""A published run: what lies in its folder, that it opens, and that no network is asked in vain."""

import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml

import baselines
from baselines import hub, publish, sample
from baselines.config import load_config, save_config
from baselines.errors import UserError
from baselines.metrics.extractors import weights_hash
from baselines.runs import load_run
from baselines.training.checkpoint import CheckpointError, save_weights
from tests.support.tiny_run import make_tiny_run

NAMES = {"config.json", "vocabulary.json", "encoders.safetensors", "generator.safetensors"}
RED = "a small red circle"
huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with folders of this machine in its settings, measured, and measured earlier."""
    path = make_tiny_run(tmp_path_factory.mktemp("published") / "run")
    config = load_config(path / "config.json")
    data = {
        "root": "/home/somebody/data",
        "cache": "/home/somebody/cache",
        "split_file": "/home/somebody/test.txt",
    }
    for name, value in data.items():
        object.__setattr__(config.data, name, value)
    save_config(config, path / "config.json")
    generator = load_run(path).generator
    save_weights(generator, path / "generator.safetensors", images=1234, step=5)
    earlier, own = entry("0" * 16, 99.0), entry(weights_hash(generator), 12.5)
    content = {"schema": 2, "evaluations": [earlier, own]}
    (path / "evaluation.json").write_text(json.dumps(content))
    return path


def entry(weights: str, value: float) -> dict:
    row = {"metric": "fid", "title": "Fréchet distance", "percent": False, "better": "lower",
           "note": "", "settings": {}}  # fmt: skip
    return {
        "subject": {"run": "/home/somebody/run", "weights": {"file": "x", "hash": weights}},
        "protocol": {"data": {"name": "folder", "root": "/home/somebody/data"},
                     "fingerprint": "f" * 16, "split": "test", "images": 24,
                     "real_images": 24, "seed": 3},
        "environment": {},
        "metrics": {"fid/damsm": {"untrained": {"value": 50.0}, "trained": {"value": value}}},
        "rows": {"fid/damsm": row}, "left_out": {}, "warnings": [], "seconds": 1.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("snapshots") / "new" / "snapshot"
    publish.main([str(run), "--to", str(folder), "--licence", "mit"])
    return folder


@pytest.fixture
def cache(folder, tmp_path, monkeypatch) -> Path:
    """The Hub's cache with the model owner/name in it, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / "cache" / "models--owner--name"
    for reference, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        (model / "refs").mkdir(parents=True, exist_ok=True)
        (model / "refs" / reference).write_text(commit)
        shutil.copytree(folder, model / "snapshots" / commit)
    return model / "snapshots"


def pixels(place: str | Path) -> list[bytes]:
    return [image.tobytes() for image in baselines.load(place, device="cpu")(RED, samples=2)]


def test_a_published_folder_draws_what_the_run_draws(run, folder):
    assert {path.name for path in folder.iterdir()} == {*NAMES, "README.md"}
    assert pixels(folder) == pixels(run)
    assert (
        baselines.load(folder, device="cpu").vocabulary.words
        == load_run(run).encoders.vocabulary.words
    )
    for path in folder.iterdir():
        assert b"somebody" not in path.read_bytes(), "a folder of the publisher's machine"
    assert load_config(folder / "config.json").data.split_file == "test.txt"


def test_the_card_tells_what_it_is_and_what_these_weights_measured(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    known = yaml.safe_load(head)
    assert known["license"] == "mit" and known["pipeline_tag"] == "text-to-image"
    (result,) = known["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("fid/damsm", 12.5)]
    assert "99" not in body and "| Fréchet distance" in body and "12.5" in body and "seed 3" in body
    assert f'baselines.load("{folder}")' in body and "1,234" in body
    assert "attngan" in body and "scenes" in body and "16, 32" in body


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_damaged_published_file_is_named(name, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    data = bytearray((copy / name).read_bytes())
    data[-9] ^= 4
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        baselines.load(copy, device="cpu")


def test_a_name_opens_what_is_on_the_hub(run, cache):
    assert pixels("owner/name") == pixels("owner/name@v1") == pixels(run)
    sample.main(["--run", "owner/name", "--text", RED, "--singles", "--device", "cpu"])
    assert len(list(Path("samples").iterdir())) == 1 and not Path("owner").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/nome", r"owner/nome: no folder here, and not to be had from the Hugging Face Hub"),
        ("owner/name@v9", r"owner/name@v9: no folder here, and not to be had"),
        ("owner/pickled", r"owner/pickled: .* without encoders.safetensors; only what python -m"),
    ],
)
def test_what_is_not_on_the_hub_is_one_line(name, message, cache):
    pickled = cache.parents[1] / "models--owner--pickled"
    shutil.copytree(cache.parent, pickled)
    (pickled / "snapshots" / ("a" * 40) / "encoders.safetensors").unlink()
    (pickled / "snapshots" / ("a" * 40) / "encoders.pt").write_bytes(b"a pickle")
    with pytest.raises(UserError, match=message) as caught:
        baselines.load(name, device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_only_json_and_safetensors_are_asked_for(folder):
    with mock.patch.object(
        huggingface_hub, "snapshot_download", autospec=True, return_value=str(folder)
    ) as asked:
        assert hub.fetch("owner/name@v1") == folder
    asked.assert_called_once_with("owner/name", revision="v1", allow_patterns=mock.ANY)
    assert set(asked.call_args.kwargs["allow_patterns"]) == NAMES


def test_a_mistyped_folder_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for place in ("runs/x", Path("owner/name"), "x", "a/b/c", "./a/b"):
        with pytest.raises(CheckpointError, match="not a run directory"):
            baselines.load(place)
    with pytest.raises(UserError, match=r"owner/name: needs .*: pip install huggingface_hub"):
        baselines.load("owner/name")


def test_pushing_uploads_that_folder(run):
    def uploaded(self, *, repo_id, folder_path, commit_message):
        assert repo_id == "owner/name"
        found.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})

    found = {}
    with mock.patch.object(huggingface_hub, "HfApi", autospec=True) as api:
        api.return_value.create_repo.return_value = "https://hub/owner/name"
        api.return_value.upload_folder.side_effect = lambda **options: uploaded(None, **options)
        assert baselines.push_to_hub(run, "owner/name", private=True) == "https://hub/owner/name"
    api.return_value.create_repo.assert_called_once_with("owner/name", private=True, exist_ok=True)
    assert found.keys() == {*NAMES, "README.md"}
    assert b'baselines.load("owner/name")' in found["README.md"]
    assert b"license: unknown" in found["README.md"]


def test_what_cannot_be_published_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="not empty; choose a new folder"):
        publish.main([str(run), "--to", str(run)])
    with pytest.raises(CheckpointError, match="not a run directory"):
        publish.main([str(tmp_path), "--to", str(tmp_path / "new")])
    with pytest.raises(CheckpointError, match=r"best\.safetensors: no such file"):
        publish.main([str(run), "--to", str(tmp_path / "new"), "--weights", "best.safetensors"])
    with pytest.raises(UserError, match="runs: expected OWNER/NAME"):
        publish.main([str(run), "--push", "runs"])
    with mock.patch.object(huggingface_hub, "HfApi", autospec=True) as api:
        api.return_value.create_repo.side_effect = OSError("401 Client Error\n" + "x" * 1000)
        with pytest.raises(UserError, match="log in with `hf auth login`") as caught:
            publish.main([str(run), "--push", "owner/name"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"card: needs the .*: pip install huggingface_hub"):
        publish.main([str(run), "--to", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_encoders_are_the_same_in_either_form(run, folder):
    first, second = load_run(run).encoders, load_run(folder).encoders
    assert first.fingerprint == second.fingerprint and first.config == second.config
    assert all(torch.isfinite(p).all() for p in second.text.parameters())
