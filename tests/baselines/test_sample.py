import io
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import baselines
from baselines.config import load_config, save_config
from baselines.data import open_source
from baselines.pictures.grids import to_picture
from baselines.sample import main
from baselines.sampling import album
from tests.support.paths import ROOT
from tests.support.tiny_run import make_tiny_run

RED, GREEN = "a small red circle", "a large green star above a blue square"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def sample(run, tmp_path):
    """Calls the command; returns the names of what it wrote, all of it readable PNG files."""

    def call(*arguments, run=run, out=tmp_path / "out"):
        assert main(["--run", str(run), "--out", str(out), "--device", "cpu", *arguments]) == 0
        for path in out.iterdir():
            with Image.open(path) as image:
                assert image.format == "PNG"
                image.load()
        return sorted(path.name for path in out.iterdir())

    return call


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(first, second):
    """The same picture, up to the rounding of the arithmetic."""
    return first.shape == second.shape and np.abs(first - second).max() <= 1


def test_draws_what_python_draws(sample, run, tmp_path, capsys):
    names = sample("--text", RED, "--text", GREEN, "--samples", "2", "--seed", "5")
    slugs = ["a-large-green-star-above-a-blue-square", "a-small-red-circle"]
    assert names == [f"{slug}_{n}.png" for slug in slugs for n in (0, 1)] + ["grid-001.png"]
    assert f"images: 4, sheets: 1, in {tmp_path / 'out'}" in capsys.readouterr().out
    pictures = baselines.load(run, device="cpu")([RED, GREEN], samples=2, seed=5)
    for name, picture in zip([*names[2:4], *names[:2]], pictures, strict=True):
        assert near(pixels(tmp_path / "out" / name), np.asarray(picture).astype(int))


def test_the_same_command_writes_the_same_bytes(sample, tmp_path):
    for folder in ("one", "two"):
        sample("--text", RED, "--overlays", out=tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_without_captions_the_runs_own_test_split_is_drawn_beside_the_real_images(
    sample, run, tmp_path
):
    names = sample("--seed", "2")
    assert len([name for name in names if name.endswith("_layout.png")]) == 8
    assert len(names) == 8 + 8 + 1
    pipeline = baselines.load(run, device="cpu")
    source = open_source(pipeline.run.config.data, "test")
    for place in range(8):
        text = source.captions(3 * place)[0]  # 8 of 24 images, spread evenly
        name = f"{re.sub('[^a-z]+', '-', text)[:60].strip('-')}_0.png"
        alone = np.asarray(pipeline(text, seed=2 + place)[0]).astype(int)
        assert near(pixels(tmp_path / "out" / name), alone)
    page = pixels(tmp_path / "out" / "grid-001.png")
    real = np.asarray(to_picture(source.image(0, 32)).resize((144, 144), Image.BICUBIC))
    assert np.array_equal(page[6:150, 6:150], real)


def test_all_stages_are_named_by_their_size(sample, tmp_path):
    names = sample("--text", RED, "--all-stages", "--singles")
    assert names == ["a-small-red-circle_0_16px.png", "a-small-red-circle_0_32px.png"]
    assert pixels(tmp_path / "out" / names[0]).shape == (16, 16, 3)


def test_grid_or_singles_or_both(sample, tmp_path):
    assert sample("--text", RED, "--grid", out=tmp_path / "a") == ["grid-001.png"]
    assert sample("--text", RED, "--singles", out=tmp_path / "b") == ["a-small-red-circle_0.png"]


def test_captions_of_equal_slug_get_files_of_their_own(sample):
    texts = ["a red star", "A red star!", "a red star on a " + "plain " * 20, "a-red-star"]
    arguments = [part for text in texts for part in ("--text", text)]
    names = sample(*arguments, "--singles")
    assert len(names) == 4 and {"a-red-star_0.png", "a-red-star-2_0.png"} < set(names)
    assert max(map(len, names)) < 80


def test_captions_come_from_a_file_and_from_standard_input(sample, tmp_path, monkeypatch):
    file = tmp_path / "captions.txt"
    file.write_bytes("\ufeffa red heart\r\n\r\n  a blue ring \n".encode())
    from_file = sample("--captions", str(file), out=tmp_path / "a")
    assert from_file == ["a-blue-ring_0.png", "a-red-heart_0.png", "grid-001.png"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file.read_bytes())))
    assert sample("-", out=tmp_path / "b") == from_file
    for name in from_file:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_many_captions_fill_several_pages(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(album, "PAGE", 7)
    file = tmp_path / "captions.txt"
    shapes = ("circle", "square", "star", "ring")
    file.write_text("\n".join(f"a {size} {s}" for size in ("small", "large") for s in shapes))
    names = sample("--captions", str(file), "--grid", "--batch-size", "3")
    assert names == ["grid-001.png", "grid-002.png"]
    one, two = (pixels(tmp_path / "out" / name) for name in names)
    assert one.shape[1] > two.shape[1]


def test_unknown_words_are_reported_and_drawing_goes_on(sample, caplog):
    assert sample("--text", "a red zorgle") == ["a-red-zorgle_0.png", "grid-001.png"]
    assert "'zorgle'" in caplog.text


def test_edit_draws_all_versions_from_the_same_noise(sample, tmp_path):
    changed = "a small green circle"
    names = sample("--edit", RED, "--edit", changed, "--samples", "2", "--overlays")
    assert "edit.png" in names and "a-small-green-circle_1_layout.png" in names
    alone = sample("--text", changed, "--samples", "2", out=tmp_path / "alone")
    for name in alone[:2]:
        assert near(pixels(tmp_path / "out" / name), pixels(tmp_path / "alone" / name))
    sheet = pixels(tmp_path / "out" / "edit.png")
    reddish = (sheet[..., 0] - sheet[..., 1:].max(-1)) > 90
    assert reddish[:, sheet.shape[1] // 2 :].sum() > 30, "the new word is not marked"
    assert not reddish[:, : sheet.shape[1] // 2].any(), "a word of the base is marked"


def test_interpolation_in_noise_runs_from_sample_to_sample(sample, tmp_path):
    names = sample("--text", RED, "--interpolate-noise", "3", "--samples", "2")
    slug = "a-small-red-circle"
    steps = [f"{slug}_{path}_{step:03d}.png" for path in ("0-1", "1-2") for step in range(3)]
    assert sorted(names) == sorted([*steps, f"{slug}_noise.png"])
    sample("--text", RED, "--samples", "3", "--singles", out=tmp_path / "plain")
    for step, number in ((0, 0), (2, 1), (3, 1), (5, 2)):
        plain = pixels(tmp_path / "plain" / f"{slug}_{number}.png")
        assert near(pixels(tmp_path / "out" / steps[step]), plain)


def test_interpolation_between_captions_ends_at_both(sample, tmp_path):
    names = sample("--text", RED, "--text", GREEN, "--interpolate-captions", "20", "--all-stages")
    final = [name for name in names if name.endswith("_32px.png")]
    assert len(final) == 20 and len(names) == 41
    plain = sample("--text", RED, "--text", GREEN, "--singles", out=tmp_path / "plain")
    for name, text in ((final[0], plain[1]), (final[-1], plain[0])):
        assert near(pixels(tmp_path / "out" / name), pixels(tmp_path / "plain" / text))


@pytest.mark.parametrize("settings", [{"stages": 1}, {"single_image": True}])
def test_models_with_one_image_are_drawn_too(sample, tmp_path, settings):
    other = make_tiny_run(tmp_path / "other", **settings)
    assert "grid-001.png" in sample("--all-stages", run=other)


WRONG = {
    "no such run": (["--run", "nowhere"], "nowhere: not a run directory"),
    "empty text": (["--text", ""], "a caption is empty"),
    "no word": (["--text", "zorgle"], "no word of 'zorgle' is in the vocabulary"),
    "no file": (["--captions", "missing.txt"], "missing.txt: No such file"),
    "a folder": (["--captions", "."], "Is a directory"),
    "empty file": (["--captions", "empty.txt"], "empty.txt: holds no caption"),
    "not UTF-8": (["--captions", "latin.txt"], "latin.txt: line 2 is not UTF-8"),
    "no samples": (["--text", RED, "--samples", "0"], "--samples: 0: expected a whole number, 1"),
    "not a number": (["--text", RED, "--samples", "two"], "--samples: two: expected a whole"),
    "batch size": (["--text", RED, "--batch-size", "-3"], "--batch-size: -3: expected"),
    "one step": (["--text", RED, "--interpolate-noise", "1"], "1: expected a whole number, 2"),
    "device": (["--text", RED, "--device", "abacus"], "device 'abacus' does not exist here"),
    "one edit": (["--edit", RED], "--edit: give it at least twice"),
    "edit and text": (["--edit", RED, "--edit", RED, "--text", RED], "leave out --text"),
    "one end": (["--text", RED, "--interpolate-captions", "3"], "needs exactly two --text"),
    "overlaid path": (["--text", RED, "--interpolate-noise", "3", "--overlays"], "--overlays"),
    "two modes": (["--edit", RED, "--edit", RED, "--interpolate-noise", "3"], "not allowed with"),
    "unknown option": (["--texts", RED], "unrecognized arguments: --texts"),
    "cut option": (["--text", RED, "--sample", "1"], "unrecognized arguments: --sample"),
    "bare caption": ([RED], f"'{RED}': captions are given with --text"),
    "output": (["--text", RED, "--out", "empty.txt"], "cannot write the pictures: empty.txt"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_and_writes_nothing(
    run, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("a bird\nein Vögelchen\n".encode("latin-1"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(["--run", str(run), "--out", "out", "--device", "cpu", *arguments])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1 and message in output.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_run_option_is_a_mistake_too(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--text", RED])
    assert stopped.value.code == 2 and "--run" in capsys.readouterr().err


def test_a_test_split_that_is_gone_is_named(run, tmp_path, capsys):
    config = load_config(run / "config.json")
    other = make_tiny_run(tmp_path / "other")
    object.__setattr__(config.data, "name", "cub")
    object.__setattr__(config.data, "root", str(tmp_path / "gone"))
    save_config(config, other / "config.json")
    with pytest.raises(SystemExit) as stopped:
        main(["--run", str(other), "--device", "cpu"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1 and "no caption given" in error and "gone" in error


def test_a_full_disk_leaves_no_half_written_picture(run, tmp_path, monkeypatch, capsys):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("baselines.training.checkpoint.os.fsync", fail)
    with pytest.raises(SystemExit) as stopped:
        main(["--run", str(run), "--text", RED, "--out", str(tmp_path), "--device", "cpu"])
    assert stopped.value.code == 2 and "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_as_a_command(run, tmp_path):
    command = [sys.executable, "-m", "baselines.sample", "--run", str(run), "-"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--device", "cpu"],
        cwd=ROOT, input="a red zorgle\n", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["unknown to this run: 'zorgle', in 'a red zorgle'"]
    assert done.stdout.splitlines() == [
        f"images: 1, sheets: 1, in {tmp_path / 'out'}",
        f"  {tmp_path / 'out' / 'grid-001.png'}",
    ]
