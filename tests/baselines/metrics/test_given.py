import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import compare, evaluate
from baselines.data.scenes import Scenes
from baselines.data.source import DataError
from baselines.errors import UserError
from baselines.metrics import inception
from baselines.metrics.comparison import MixedSettingsError
from baselines.metrics.evaluation import Options
from baselines.metrics.features import MixedStatisticsError
from baselines.metrics.given import common_size, evaluate_images, open_images
from baselines.metrics.record import load_entries
from tests.baselines.metrics.test_extractors import Means
from tests.baselines.metrics.toy_encoder import ToyEncoder
from tests.support.tiny_run import make_tiny_run


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A file that stands in for an Inception."""
    monkeypatch.setattr(inception, "INCEPTION_DIM", 3)
    torch.manual_seed(0)
    scripted = torch.jit.trace(Means(3), torch.zeros(1, 3, 299, 299))
    torch.jit.save(scripted, tmp_path / "network.pt")
    return tmp_path / "network.pt"


def folder_of(path, count, seed=0, size=32):
    path.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        colour = rng.integers(0, 256, (1, 1, 3))
        pixels = np.clip(colour + rng.integers(-9, 9, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{number:03d}.png")
    return path


def command(folder, network, *options):
    evaluate.main(
        [
            "--images-from", str(folder), "--weights", f"inception-2015={network}", "--device",
            "cpu", *map(str, options),
        ]
    )  # fmt: skip
    return load_entries(folder / "evaluation.json")


def test_a_strangers_folder_is_measured_against_another(tmp_path, network):
    ours, real = folder_of(tmp_path / "ours", 40), folder_of(tmp_path / "real", 60, seed=1)
    (entry,) = command(ours, network, "--reference", real)
    assert set(entry["metrics"]) >= {
        "fid/inception-2015", "fid/inception-2015/equal", "kid/inception-2015",
        "precision_recall/inception-2015/recall",
    }  # fmt: skip
    assert entry["protocol"]["images"] == 40 and entry["protocol"]["real_images"] == 60
    assert entry["subject"]["images"] == str(ours) and entry["subject"]["captions"] is None
    from scipy.linalg import sqrtm

    model = torch.jit.load(network)
    means, covariances = [], []
    for folder in (ours, real):
        batch = torch.stack(
            [open_images(folder).image(i, 32) for i in range(len(open_images(folder)))]
        )
        pixels = ((batch + 1) * 127.5).round()
        resized = inception.resize_like_tensorflow1(pixels, 299)
        with torch.no_grad():
            features = model((resized - 128) / 128).double().numpy()
        means.append(features.mean(0))
        covariances.append(np.cov(features, rowvar=False))
    offset = means[0] - means[1]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = offset @ offset + np.trace(covariances[0] + covariances[1] - 2 * root)
    found = entry["metrics"]["fid/inception-2015"]["images"]["value"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_two_strangers_are_compared_on_the_same_captions_and_reference(tmp_path, network, capsys):
    real = folder_of(tmp_path / "real", 12, seed=9)
    folders = [
        folder_of(tmp_path / name, 10, seed) for seed, name in enumerate(("gan", "diffusion"))
    ]
    (tmp_path / "captions.txt").write_text("\n".join(f"caption {n}" for n in range(10)))
    for folder in folders:
        command(folder, network, "--reference", real, "--captions", tmp_path / "captions.txt")
    capsys.readouterr()
    compare.main([*map(str, folders)])
    head = capsys.readouterr().out.splitlines()[0]
    assert [c.strip() for c in head.strip("|").split("|")] == [
        "metric", "gan", "diffusion", "real images",
    ]  # fmt: skip
    command(folders[1], network, "--reference", folders[0], "--images", "10")
    entries = load_entries(folders[1] / "evaluation.json")
    (folders[1] / "evaluation.json").write_text(
        json.dumps({"schema": 2, "evaluations": entries[-1:]})
    )
    with pytest.raises(MixedSettingsError, match="fingerprint"):
        compare.main([*map(str, folders)])


def test_a_small_reference_is_warned_of_however_many_images_there_are(tmp_path, network):
    real = folder_of(tmp_path / "real", 3, seed=1)
    (entry,) = command(folder_of(tmp_path / "ours", 8), network, "--reference", real)
    assert any("3 images for 3 dimensions" in w["reason"] for w in entry["warnings"])


@pytest.mark.parametrize(
    "line",
    ["[" * 9999, '{"file_name": "000.png", "text": 5}', '{"file_name": "000.png", "text": []}'],
)
def test_a_bad_line_of_captions_is_named(tmp_path, line):
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"captions.jsonl, line 1: .*expected"):
        open_images(folder_of(tmp_path / "ours", 1), tmp_path / "captions.jsonl")


def test_without_a_reference_what_compares_is_left_out(tmp_path, network):
    (entry,) = command(folder_of(tmp_path / "ours", 6), network)
    assert "give --reference" in entry["left_out"]["fid"]
    assert "fid/inception-2015" not in entry["metrics"]


def test_statistics_of_an_earlier_reference_serve_unless_they_are_of_another_size(
    tmp_path, network
):
    run = make_tiny_run(tmp_path / "run")
    evaluate.main(
        ["--run", str(run), "--metrics", "fid", "--images", "8", "--extractor", "inception-2015",
         "--weights", f"inception-2015={network}", "--device", "cpu",
         "--save-images", str(tmp_path / "drawn")]
    )  # fmt: skip
    reference = run / "reference-inception-2015.npz"
    ours = tmp_path / "drawn"
    (entry,) = command(ours, network, "--reference", reference, "--metrics", "fid")
    (whole,) = load_entries(run / "evaluation.json")
    # What was saved and read again is what was drawn.
    row = "fid/inception-2015"
    assert entry["metrics"][row]["images"]["value"] == pytest.approx(
        whole["metrics"][row]["trained"]["value"], rel=1e-5
    )
    large = folder_of(tmp_path / "large", 8, size=64)
    with pytest.raises(MixedStatisticsError, match="size: 64 against 32"):
        command(large, network, "--reference", reference, "--metrics", "fid")
    # Brought to the same size they may be compared.
    command(large, network, "--reference", reference, "--metrics", "fid", "--size", "32")


def test_saved_images_are_judged_by_encoders_as_the_run_is(tmp_path, network):
    run = make_tiny_run(tmp_path / "run")
    evaluate.main(
        ["--run", str(run), "--metrics", "r_precision", "--images", "24", "--device", "cpu",
         "--save-images", str(tmp_path / "drawn")]
    )  # fmt: skip
    lines = (tmp_path / "drawn" / "metadata.jsonl").read_text().splitlines()
    source = Scenes("test", images=24, max_objects=2)
    assert [json.loads(line)["text"] for line in lines] == [
        source.captions(index)[0] for index in range(24)
    ]
    (entry,) = command(
        tmp_path / "drawn", network, "--captions", tmp_path / "drawn" / "metadata.jsonl",
        "--independent-encoder", run, "--metrics", "r_precision",
    )  # fmt: skip
    assert set(entry["metrics"]) == {"r_precision/independent"}
    assert 0 <= entry["metrics"]["r_precision/independent"]["images"]["value"] <= 1


def test_a_strangers_encoder_judges_places_and_captions(tmp_path):
    """No network is opened that no metric reads."""
    folder = tmp_path / "ours"
    folder.mkdir()
    for number, level in enumerate((255, 0, 255, 0)):
        Image.new("RGB", (16, 16), (level,) * 3).save(folder / f"{number}.png")
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat above a dog\na cat below a dog\na cat below a car\na hat\n")
    options = Options(
        metrics=("pa", "r_precision"), extractors=("inception-2015",),
        weights={"inception-2015": tmp_path / "none.pt"},
    )  # fmt: skip
    entry = evaluate_images(
        folder, captions, options, encoder=ToyEncoder(), device=torch.device("cpu")
    )
    pa = entry["metrics"]["pa"]["images"]
    # The bright image and the dark one are aligned, the other bright one is below nothing.
    assert {word: score["value"] for word, score in pa["by"].items()} == {"above": 1, "below": 0.5}
    assert pa["value"] == 0.75
    by_encoder = entry["metrics"]["r_precision/toy"]["images"]
    # Three captions have one vector: only the bright image with the caption of its own wins.
    assert by_encoder["value"] == 0.25
    rows = entry["rows"]
    assert rows["pa"]["settings"] == {"encoder": "toy", "false_captions": "opposites"}
    assert rows["r_precision/toy"]["settings"]["encoders"] == "toy"


def test_captions_may_be_lines_and_equal_ones_are_one_class(tmp_path):
    folder = folder_of(tmp_path / "ours", 3)
    (tmp_path / "captions.txt").write_text("a red bird\na blue bird\na red bird\n")
    source = open_images(folder, tmp_path / "captions.txt")
    assert [source.captions(i) for i in range(3)] == [
        ("a red bird",), ("a blue bird",), ("a red bird",),
    ]  # fmt: skip
    assert source.class_id(0) == source.class_id(2) != source.class_id(1)
    (tmp_path / "captions.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"captions.txt has 1 captions for 3 images"):
        open_images(folder, tmp_path / "captions.txt")
    (tmp_path / "c.jsonl").write_text('{"file_name": "009.png", "text": "x"}')
    with pytest.raises(DataError, match=r"c.jsonl names 1 files that .* has not: 009.png"):
        open_images(folder, tmp_path / "c.jsonl")
    (tmp_path / "c.jsonl").write_text('{"file_name": "../009.png", "text": "x"}')
    with pytest.raises(DataError, match="does not lie inside"):
        open_images(folder, tmp_path / "c.jsonl")
    (tmp_path / "c.jsonl").write_text('{"text": "x"}')
    with pytest.raises(DataError, match=r"c.jsonl, line 1: KeyError 'file_name'"):
        open_images(folder, tmp_path / "c.jsonl")


def test_an_image_of_the_right_size_is_untouched_and_others_are_resized_whole(tmp_path):
    folder = folder_of(tmp_path / "ours", 2)
    source = open_images(folder)
    pixels = np.array(Image.open(folder / "001.png")).transpose(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(
        source.image(1, 32).double(), torch.from_numpy(pixels), atol=1e-6, rtol=0
    )
    assert source.image(1, 20).shape == (3, 20, 20)
    assert float(source.image(1, 20).mean() - source.image(1, 32).mean()) == pytest.approx(
        0, abs=0.02
    )


def test_images_that_do_not_fit_are_named(tmp_path, network):
    folder = folder_of(tmp_path / "ours", 2)
    assert common_size(open_images(folder)) == 32
    Image.new("RGB", (40, 32)).save(folder / "wide.png")
    with pytest.raises(UserError, match=r"different sizes or not square .*wide.png: 40×32"):
        command(folder, network)
    (folder / "wide.png").write_text("no image")
    with pytest.raises(DataError, match=r"wide.png cannot be read"):
        command(folder, network)
    with pytest.raises(DataError, match="no such folder"):
        open_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_images(tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "x", "--captions", "c.txt"], "--captions belongs to --images-from"),
        (["--run", "x", "--size", "3"], "--size belongs to --images-from"),
        (["--images-from", "x", "--before-after"], "need --run"),
        (["--images-from", "x", "--extractor", "damsm"], "no such folder"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        evaluate.main(options)
