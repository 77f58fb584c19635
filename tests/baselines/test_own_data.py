"""From files to pictures through the commands, on a user's own folder and on the real data sets."""

import io
import json
import re
from pathlib import Path

import pytest
import torch

from baselines import damsm, sample, train
from baselines.cli import run_command
from baselines.config import load_config
from baselines.data import DataError, Vocabulary, VocabularyMismatchError
from baselines.data.cache import FOLDER
from baselines.data.scenes import Scenes
from baselines.pictures.grids import to_picture
from baselines.runs import load_encoders
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.stats import read_stats
from tests.baselines.commands import differences, train_command
from tests.baselines.data.test_webdataset import write_shard
from tests.support.paths import require, shared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve scenes as a user would keep them: images, metadata.jsonl and a list of test images."""
    root, scenes = tmp_path / "images", Scenes("train", images=12, max_objects=1)
    root.mkdir()
    lines = []
    for index in range(len(scenes)):
        to_picture(scenes.image(index, 48)).save(root / f"{index}.png")
        captions = list(scenes.captions(index)[: 1 + index % 3])
        lines.append({"file_name": f"{index}.png", "text": captions if index else captions[0]})
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "test.txt").write_text("3.png\n8.png\n11.png\n")
    return root


def on_folder(root: Path) -> list[str]:
    return [
        "--data-root", str(root), "--split-file", str(root / "test.txt"),
        "--set", "data.name=folder",
    ]  # fmt: skip


def test_a_folder_of_images_trains_and_draws(folder, tmp_path):
    encoders, run = tmp_path / "damsm", tmp_path / "run"
    settings = ("encoder.images=16", "encoder.batch_size=4", "encoder.embedding_dim=16",
                "run.device=cpu")  # fmt: skip
    arguments = ["--preset", "demo", "--run-dir", str(encoders), *on_folder(folder)]
    damsm.main([*arguments, *(part for setting in settings for part in ("--set", setting))])
    words = load_encoders(encoders).vocabulary
    assert words.unknown_words("a zebra") == ["zebra"]

    train.main([*train_command("alrgan", run, encoders, 2), *on_folder(folder)])
    assert read_stats(run / "stats.jsonl")[-1]["images"] == 8
    assert load_config(run / "config.json").data.split_file == str(folder / "test.txt")
    sample.main(["--run", str(run), "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").glob("*.png"))


def test_broken_images_stop_training_with_their_names_unless_skipped(folder, tmp_path, encoders):
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    (folder / "7.png").unlink()
    arguments = [*train_command("attngan", tmp_path / "run", encoders, 1), *on_folder(folder)]
    with pytest.raises(DataError, match=r"(?s)5\.png.*7\.png|7\.png.*5\.png"):
        train.main(arguments)
    assert not (tmp_path / "run").exists()
    train.main([*arguments, "--skip-broken"])
    assert read_stats(tmp_path / "run" / "stats.jsonl")


def test_a_run_goes_on_with_and_without_a_cache_to_the_same_bit(folder, tmp_path, encoders):
    def trained(run, steps, *settings):
        arguments = train_command("stackgan", tmp_path / run, encoders, steps, *settings)
        train.main([*arguments, *on_folder(folder)])
        return load_torch(checkpoints(tmp_path / run)[-1])

    kept = f"data.cache={tmp_path / 'kept'}"
    whole = trained("whole", 4)
    trained("parts", 1)
    trained("parts", 2, kept, "data.workers=1")
    trained("parts", 3, "data.cache=auto")
    parts = trained("parts", 4, kept)
    assert parts["progress"]["step"] == 4
    assert not differences(whole["networks"], parts["networks"])
    for cache in (tmp_path / "kept", folder / FOLDER):
        (pixels,) = cache.glob("*.pixels")
        assert pixels.name.startswith("folder-train-32-")


def test_pretraining_keeps_the_held_out_images_too(folder, tmp_path):
    settings = ("encoder.images=8", "encoder.batch_size=4", "encoder.embedding_dim=16",
                "run.device=cpu", f"data.cache={tmp_path / 'kept'}")  # fmt: skip
    arguments = ["--preset", "demo", "--run-dir", str(tmp_path / "run"), *on_folder(folder)]
    damsm.main([*arguments, *(part for setting in settings for part in ("--set", setting))])
    names = sorted(path.name for path in (tmp_path / "kept").glob("*.pixels"))
    assert [name.split("-")[1] for name in names] == ["test", "train"]


def test_a_dry_run_tells_what_the_cache_takes_and_how_fast_images_load(
    folder, tmp_path, capsys, encoders, monkeypatch
):
    monkeypatch.setattr("baselines.trial.STEPS", 1)
    monkeypatch.setattr("baselines.loading.SECONDS", 0.05)
    kept = ("--set", f"data.cache={tmp_path / 'kept'}")
    arguments = [*train_command("attngan", tmp_path / "run", encoders, 2), *on_folder(folder)]

    def told(*more):
        train.main([*arguments, "--dry-run", *more])
        return capsys.readouterr().err.splitlines()

    rate = r"loading: [\d,]+ images/s at 32 px with data.workers=0"
    assert re.fullmatch(rate, told("--timed")[-1])
    assert not any("cache" in line for line in told())
    # Nine square images of 38 pixels.
    assert re.fullmatch(
        rf"cache of 9 decoded train images at 32 px: about {9 * 3 * 38**2 / 2**30:.3g} GiB in "
        rf"{tmp_path / 'kept'}, which has [\d.e+]+ GiB free",
        told(*kept)[-1],
    )
    assert re.fullmatch(rate + ", decoded: the cache is not filled yet", told("--timed", *kept)[-1])
    assert not (tmp_path / "kept").exists()
    train.main([*arguments, *kept])
    assert re.fullmatch(rate + ", from the cache", told("--timed", *kept)[-1])


def test_a_cache_that_cannot_be_is_one_line_before_training(folder, tmp_path, encoders, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            run_command(lambda _: train.main([*arguments]))
        assert ended.value.code == 2 and not (tmp_path / "run").exists()
        return capsys.readouterr().err.splitlines()[-1]

    arguments = train_command("attngan", tmp_path / "run", encoders, 2)
    line = refused(*arguments, "--set", f"data.cache={tmp_path / 'kept'}")
    assert line.startswith(f"error: data.cache={tmp_path / 'kept'}: there is nothing to keep of sc")
    (tmp_path / "file").write_text("")
    line = refused(*arguments, *on_folder(folder), "--set", f"data.cache={tmp_path / 'file' / 'x'}")
    assert line.startswith(f"error: {tmp_path / 'file'}") and "a file stands where a folder" in line


@pytest.mark.parametrize("name", ["cub", "coco"])
def test_the_real_data_sets_train(name, tmp_path, encoders):
    root = require(shared("data", name))
    arguments = train_command("alrgan", tmp_path / "run", encoders, 1, f"data.name={name}")
    arguments += ["--data-root", str(root)]
    # The words of scenes are 43 % of theirs: enough for a step, too few for anybody's training.
    with pytest.raises(VocabularyMismatchError, match=rf"5\d% of the words .* {name} train"):
        train.main(arguments)
    assert not (tmp_path / "run").exists()
    train.main([*arguments, "--set", "data.max_unknown=1"])
    last = read_stats(tmp_path / "run" / "stats.jsonl")[-1]
    assert all(torch.isfinite(torch.tensor(v)) for v in last.values())
    saved = Vocabulary.load(tmp_path / "run" / "vocabulary.json")
    assert saved.fingerprint == load_encoders(encoders).vocabulary.fingerprint


def test_shards_train_and_resume(tmp_path, encoders):
    scenes = Scenes("train", images=12, max_objects=1)
    for split in ("train", "test"):
        content = []
        for index in range(len(scenes)):
            image = io.BytesIO()
            to_picture(scenes.image(index, 48)).save(image, "PNG")
            text = scenes.captions(index)[0].encode()
            content.append((f"{index:09d}", {"png": image.getvalue(), "txt": text}))
        write_shard(tmp_path / "data" / split / "00000.tar", content)

    def trained(run, steps):
        settings = ("data.name=webdataset", "data.shuffle_buffer=4", "data.workers=1")
        arguments = train_command("attngan", tmp_path / run, encoders, steps, *settings)
        train.main([*arguments, "--data-root", str(tmp_path / "data")])
        return load_torch(checkpoints(tmp_path / run)[-1])

    whole = trained("whole", 5)
    assert trained("parts", 2)["progress"]["step"] == 2
    parts = trained("parts", 5)
    assert not differences(whole["networks"], parts["networks"])
