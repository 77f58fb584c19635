import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from baselines import evaluate
from baselines.cli import run_command
from baselines.config import load_config, save_config
from baselines.data import Vocabulary
from baselines.data.scenes import Scenes
from baselines.hosts import find_host
from baselines.metrics import scores
from baselines.metrics.drawing import draw, read_pairs, real
from baselines.metrics.evaluation import Options
from baselines.metrics.evaluation import evaluate as measure
from baselines.metrics.layout import layout_localisation
from baselines.metrics.real_layouts import real_layouts
from baselines.metrics.report import table
from baselines.refinement import refinement_terms
from baselines.runs import CONFIG, GENERATOR, load_encoders, load_run
from baselines.training.checkpoint import CheckpointError, save_checkpoint, save_weights
from baselines.training.distributed import World
from tests.support.tiny_run import make_tiny_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run whose trained generator differs from its untrained one."""
    path = make_tiny_run(tmp_path_factory.mktemp("runs") / "tiny")
    generator = load_run(path).generator
    with torch.no_grad():
        for parameter in generator.heads.parameters():
            parameter.mul_(3.0)
    save_weights(generator, path / GENERATOR)
    return path


@pytest.fixture
def run_dir(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "run")


def numbers(report):
    return {name: report[name] for name in ("metrics", "encoders", "extractors", "weights")}


def test_command_writes_the_table_and_everything_it_depends_on(run_dir, capsys, caplog):
    evaluate.main(["--run", str(run_dir), "--images", "30", "--before-after", "--device", "cpu"])
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert set(report["metrics"]) >= {"r_precision", "fid/damsm", "layout", "localisation/stage1"}
    for row in ("r_precision", "fid/damsm", "layout"):
        assert set(report["metrics"][row]) == {"real", "untrained", "trained"}
    fid = report["metrics"]["fid/damsm"]
    assert fid["trained"]["value"] != fid["untrained"]["value"]
    assert report["metrics"]["r_precision"]["trained"]["chance"] == 0.01
    assert report["metrics"]["layout"]["real"]["value"] >= 0.9
    assert report["metrics"]["layout"]["real"]["chance"] <= 0.3
    encoders = load_encoders(run_dir)
    assert report["vocabulary"] == encoders.vocabulary.fingerprint
    assert (report["images"], report["real_images"], report["seed"]) == (30, 24, 0)
    assert report["captions"]["max_words"] == 18 and report["legacy_mask"] is False
    assert report["versions"]["torch"] and report["device"] == "cpu"
    assert "is" in report["left_out"]
    printed = capsys.readouterr().out
    header = next(line for line in printed.splitlines() if line.startswith("| metric"))
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    assert cells == ["metric", "chance", "untrained", "trained", "real images"]
    assert "not FID" in printed and "evaluation.json" in printed
    assert "WARNING: FID and IS of 30 images" in caplog.text


def test_the_same_seed_gives_the_same_numbers_in_any_batches(run_dir):
    run = load_run(run_dir)
    first = measure(run, Options(images=40, seed=3))
    # Statistics of the real images now come from their file.
    assert (run_dir / "reference-damsm.npz").is_file()
    again = measure(run, Options(images=40, seed=3))
    assert numbers(again)["metrics"]["r_precision"] == numbers(first)["metrics"]["r_precision"]
    small = measure(run, Options(images=40, seed=3, batch_size=7))
    for row, by_set in first["metrics"].items():
        for images, score in by_set.items():
            other = small["metrics"][row][images]["value"]
            assert other == pytest.approx(score["value"], rel=1e-3, abs=1e-6), (row, images)
    other = measure(run, Options(images=40, seed=4))
    assert other["metrics"]["fid/damsm"]["trained"] != first["metrics"]["fid/damsm"]["trained"]


def test_kept_statistics_of_other_images_or_encoders_are_not_used(run_dir):
    run = load_run(run_dir)
    few = measure(run, Options(metrics=["fid"], images=10))["metrics"]["fid/damsm"]
    many = measure(run, Options(metrics=["fid"], images=24))["metrics"]["fid/damsm"]
    (run_dir / "reference-damsm.npz").unlink()
    fresh = measure(run, Options(metrics=["fid"], images=24))["metrics"]["fid/damsm"]
    assert few["trained"] != many["trained"]
    assert many["trained"]["value"] == pytest.approx(fresh["trained"]["value"], rel=1e-9)
    with torch.no_grad():
        run.encoders.image.code_head.weight.mul_(2.0)
    doubled = measure(run, Options(metrics=["fid"], images=24))["metrics"]["fid/damsm"]
    assert doubled["real"]["value"] == pytest.approx(4 * fresh["real"]["value"], rel=1e-3)


def test_pairs_show_every_image_once_before_any_twice():
    source = Scenes("test", images=6)
    vocabulary = Vocabulary.build(Scenes.vocabulary_captions())
    pairs = read_pairs(source, vocabulary, 18)
    assert len(pairs) == 60 and pairs.different == 6
    assert pairs.images.tolist() == list(range(6)) * 10
    assert pairs.captions[:12].tolist() == [0] * 6 + [1] * 6
    words = pairs.ids[7, : pairs.lengths[7]].tolist()
    assert " ".join(vocabulary.decode(words)) == source.captions(1)[1]
    short = read_pairs(source, vocabulary, 4)
    assert short.truncated == int((pairs.lengths > 4).sum()) > 0
    assert int(short.lengths.max()) == 4


def test_an_image_depends_on_its_pair_and_seed_alone(tiny):
    run = load_run(tiny)
    pairs = read_pairs(Scenes("test", images=8, max_objects=2), run.encoders.vocabulary, 18)

    def drawn(count, batch_size, seed=0):
        shown = draw(
            run.generator, pairs, run.encoders.text, run.encoders.image, count=count,
            batch_size=batch_size, seed=seed, device=torch.device("cpu"),
        )  # fmt: skip
        with torch.inference_mode():
            return torch.cat([batch.images for batch in shown])

    whole = drawn(20, 20)
    torch.testing.assert_close(drawn(11, 3), whole[:11], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn(11, 3, seed=1), whole[:11], atol=1e-2)


def test_real_images_are_those_of_their_pairs(tiny):
    run = load_run(tiny)
    source = Scenes("test", images=5, max_objects=2)
    pairs = read_pairs(source, run.encoders.vocabulary, 18)
    shown = list(
        real(
            source, pairs, run.encoders.text, run.encoders.image, count=5, size=32, batch_size=2,
            workers=0, device=torch.device("cpu"),
        )
    )  # fmt: skip
    assert [len(batch.rows) for batch in shown] == [2, 2, 1]
    assert torch.equal(shown[1].images[1], source.image(3, 32))


def test_partners_are_of_another_class():
    ids = torch.tensor([5, 5, 5, 7, 9, 5])
    found = scores.partners(ids, seed=2)
    assert (ids[found] != ids).all()
    assert torch.equal(found, scores.partners(ids, seed=2))
    assert scores.partners(torch.tensor([4, 4]), seed=0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "r_precison"], "unknown metric 'r_precison'; the nearest is 'r_precision'"),
        (["--extractor", "inception2015"], "the nearest is 'inception-2015'"),
        (["--metrics", "is"], "metric is: none of damsm has a classifier"),
        (["--images", "0"], "images is 0; expected 1 or more"),
        (["--extractor", "inception-2015", "--inception", "none.pt"], "none.pt: no such file"),
        (
            ["--extractor", "inception-2015,torchvision-imagenet", "--inception", "x.pt"],
            "cannot serve two Inceptions",
        ),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(tiny, options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--run", str(tiny), *options])
    with pytest.raises(SystemExit) as stopped:
        run_command(evaluate.main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error:") and message in error


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        evaluate.main(["--run", str(tmp_path)])


def test_out_chooses_the_file_and_a_metric_alone_can_be_had(run_dir, tmp_path, capsys):
    out = tmp_path / "elsewhere" / "numbers.json"
    evaluate.main(
        ["--run", str(run_dir), "--images", "12", "--metrics", "r_precision", "--out", str(out)]
    )
    assert set(json.loads(out.read_text())["metrics"]) == {"r_precision"}
    assert not (run_dir / "evaluation.json").exists()
    assert "Fréchet" not in capsys.readouterr().out


def test_a_metric_can_be_added(run_dir, monkeypatch):
    class Brightness:
        def __init__(self, setting, images):
            self.sum = self.count = 0

        def update(self, shown):
            self.sum += float(shown.images.mean(dim=(1, 2, 3)).sum())
            self.count += len(shown.rows)

        def scores(self):
            return {"brightness": scores.Score(self.sum / self.count)}

    monkeypatch.setitem(scores.METRICS, "brightness", scores.Kind(Brightness))
    report = measure(load_run(run_dir), Options(metrics=["brightness"], images=9))
    source = Scenes("test", images=24, max_objects=2)
    mean = sum(float(source.image(index, 32).mean()) for index in range(9)) / 9
    assert report["metrics"]["brightness"]["real"]["value"] == pytest.approx(mean, abs=1e-5)
    assert "brightness" in table(report)


def test_real_layouts_come_from_the_newest_checkpoint(tmp_path):
    path = make_tiny_run(tmp_path / "alr", "alrgan")
    config = load_config(path / CONFIG)
    config = replace(config, refine=replace(config.refine, terms="alr"))
    save_config(config, path / CONFIG)
    run = load_run(path)
    assert real_layouts(run) is None
    stages = find_host("alrgan").stages(config, run.generator)
    (extra,) = refinement_terms(config, stages, run.encoders.image, World())
    networks = {name: network.state_dict() for name, network in extra.networks.items()}
    save_checkpoint(path, 16, {"networks": networks}, keep=1)
    report = measure(run, Options(metrics=["localisation"], images=10))
    found = report["metrics"]["localisation/stage1"]
    assert set(found) == {"real", "trained"}
    source = Scenes("test", images=24, max_objects=2)
    pairs = read_pairs(source, run.encoders.vocabulary, 18)
    images = torch.stack([source.image(index, 32) for index in range(10)])
    with torch.no_grad():
        text = run.encoders.text(pairs.ids[:10], pairs.lengths[:10])
        theta = extra.refinements[0].eval().real_branch(images, text.words, pairs.lengths[:10])[1]
    words = [source.described(index)[0].word_objects for index in range(10)]
    boxes = [source.scene(index).boxes for index in range(10)]
    expected = layout_localisation(theta, words, boxes)
    assert found["real"]["value"] == pytest.approx(expected, rel=1e-4)
