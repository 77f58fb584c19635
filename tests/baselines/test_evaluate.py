import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from baselines import evaluate
from baselines.cli import run_command
from baselines.config import load_config, save_config
from baselines.data.folder import Folder
from baselines.data.scenes import Scenes
from baselines.errors import UserError
from baselines.hosts import find_host
from baselines.metrics import METRICS
from baselines.metrics.evaluation import Options
from baselines.metrics.evaluation import evaluate as measure
from baselines.metrics.extractors import weights_hash
from baselines.metrics.layouts import damsm_layout, refined_layouts, run_layouts
from baselines.metrics.pairs import fingerprint, read_pairs
from baselines.metrics.record import load_entries
from baselines.metrics.report import table
from baselines.networks.encoders import build_image_encoder, build_text_encoder
from baselines.refinement import refinement_terms
from baselines.runs import (
    CONFIG,
    ENCODERS,
    GENERATOR,
    Encoders,
    load_encoders,
    load_run,
    save_encoders,
)
from baselines.training.checkpoint import CheckpointError, save_checkpoint, save_weights
from baselines.training.distributed import World
from tests.baselines.metrics import brightness
from tests.support.tiny_run import make_tiny_run, tiny_config


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


def numbers(entry):
    return {name: entry[name] for name in ("metrics", "subject", "rows")}


def command(run_dir, *options):
    evaluate.main(["--run", str(run_dir), "--device", "cpu", *options])
    return load_entries(run_dir / "evaluation.json")


def test_command_writes_the_table_and_everything_it_depends_on(run_dir, capsys, caplog):
    (entry,) = command(run_dir, "--images", "30", "--before-after")
    metrics, rows = entry["metrics"], entry["rows"]
    assert set(metrics) >= {"r_precision", "fid/damsm", "kid/damsm", "layout", "pointing/stage1"}
    assert metrics.keys() == rows.keys()
    for row in ("r_precision", "fid/damsm/equal", "layout"):
        assert set(metrics[row]) == {"real", "untrained", "trained"}
    assert set(metrics["fid/damsm"]) == {"untrained", "trained"}
    fid = metrics["fid/damsm"]
    assert fid["trained"]["value"] != fid["untrained"]["value"]
    assert metrics["layout"]["real"]["value"] >= 0.9
    assert metrics["layout"]["real"]["chance"] <= 0.3
    encoders = load_encoders(run_dir)
    assert entry["subject"]["vocabulary"] == encoders.vocabulary.fingerprint
    assert entry["subject"]["legacy_mask"] is False
    assert entry["subject"]["captions"]["max_words"] == 18
    protocol = entry["protocol"]
    # As many real images as there are, however few are drawn.
    assert (protocol["images"], protocol["real_images"], protocol["seed"]) == (30, 24, 0)
    assert fid["trained"]["facts"]["reference_images"] == 24
    assert entry["environment"]["versions"]["torch"] and entry["environment"]["device"] == "cpu"
    assert "is" in entry["left_out"]
    printed = capsys.readouterr().out
    header = next(line for line in printed.splitlines() if line.startswith("| metric"))
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    assert cells == ["metric", "chance", "untrained", "trained", "real images"]
    assert "not FID" in printed and "evaluation.json" in printed
    assert "FID and IS of 30 images" in caplog.text


def test_what_must_be_known_to_read_the_numbers_stands_in_the_file(run_dir):
    (entry,) = command(run_dir, "--images", "20", "--metrics", "fid,r_precision")
    reasons = [(warning["metric"], warning["reason"]) for warning in entry["warnings"]]
    assert any(m == "fid" and "20 images. Published" in reason for m, reason in reasons)
    assert any(m == "fid" and "20 images for 32 dimensions" in reason for m, reason in reasons)
    assert any(m == "r_precision" and "trained with" in reason for m, reason in reasons)


def test_errors_are_of_the_mean_and_folds_and_chance_are_the_real_ones(run_dir):
    (entry,) = command(run_dir, "--images", "7", "--metrics", "r_precision")
    score = entry["metrics"]["r_precision"]["trained"]
    assert score["count"] == 7 and score["facts"]["folds"] == 7
    assert score["chance"] == pytest.approx(0.0121, abs=0.0005)  # of 99 among 230 captions
    assert 0 <= score["value"] <= 1
    assert score["facts"]["ties_by_lot"] >= score["value"]


def test_one_metric_does_not_cost_the_others(run_dir):
    (first,) = command(run_dir, "--images", "20", "--metrics", "fid,layout")
    (second,) = command(run_dir, "--images", "20", "--metrics", "r_precision")
    assert second["metrics"].keys() == first["metrics"].keys() | {
        "r_precision",
        "r_precision/ceiling",
    }
    assert second["metrics"]["layout"] == first["metrics"]["layout"]
    # Other settings stand beside them, and measuring again replaces only itself.
    entries = command(run_dir, "--images", "10", "--metrics", "r_precision")
    assert [entry["protocol"]["images"] for entry in entries] == [20, 10]
    entries = command(run_dir, "--images", "20", "--metrics", "layout")
    assert [entry["protocol"]["images"] for entry in entries] == [10, 20]
    assert entries[1]["metrics"] == second["metrics"]


def test_a_file_of_the_first_version_is_kept(run_dir):
    old = {"run": "x", "metrics": {"layout": {"trained": {"value": 0.25}}}, "left_out": {}}
    (run_dir / "evaluation.json").write_text(json.dumps(old))
    entries = command(run_dir, "--images", "8", "--metrics", "r_precision")
    assert entries[0] == old and set(entries[1]["metrics"]) == {
        "r_precision",
        "r_precision/ceiling",
    }


def test_a_file_of_something_else_is_not_overwritten(run_dir):
    (run_dir / "evaluation.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="not a file of evaluations"):
        command(run_dir, "--images", "8", "--metrics", "r_precision")
    assert (run_dir / "evaluation.json").read_text() == "[1, 2]"


@pytest.mark.parametrize(
    ("option", "number", "message"),
    [
        ("--images", "241", "images is 241: the split has 240 captions"),
        ("--real-images", "25", "real_images is 25: the split has 24 images"),
    ],
)
def test_more_than_there_is_is_refused(run_dir, option, number, message):
    with pytest.raises(UserError, match=message):
        command(run_dir, option, number)


def test_the_same_seed_gives_the_same_numbers_in_any_batches(run_dir):
    run = load_run(run_dir)
    asked = Options(images=40, seed=3, cache=run_dir)
    first = measure(run, asked)
    # Features of the real images now come from their file.
    assert (run_dir / "reference-damsm.npz").is_file()
    again = measure(run, asked)
    assert numbers(again) == numbers(first)
    small = measure(run, replace(asked, batch_size=7))
    for row, by_set in first["metrics"].items():
        for images, score in by_set.items():
            if score["value"] is not None:
                other = small["metrics"][row][images]["value"]
                assert other == pytest.approx(score["value"], rel=1e-3, abs=1e-5), (row, images)
    other = measure(run, replace(asked, seed=4))
    assert other["metrics"]["fid/damsm"]["trained"] != first["metrics"]["fid/damsm"]["trained"]


def test_kept_features_of_other_images_or_encoders_are_not_used(run_dir):
    run = load_run(run_dir)

    def equal(**options):
        asked = Options(metrics=["fid"], images=24, cache=run_dir, **options)
        return measure(run, asked)["metrics"]["fid/damsm/equal"]

    few, many = equal(real_images=10), equal()
    (run_dir / "reference-damsm.npz").unlink()
    fresh = equal()
    assert few["trained"] != many["trained"]
    assert many["trained"]["value"] == pytest.approx(fresh["trained"]["value"], rel=1e-9)
    with torch.no_grad():
        run.encoders.image.code_head.weight.mul_(2.0)
        run.encoders.image.code_head.bias.mul_(2.0)
    assert equal()["real"]["value"] == pytest.approx(4 * fresh["real"]["value"], rel=1e-3)


@pytest.fixture
def own_images(tiny, tmp_path):
    """A run over a folder of images, which may change under it."""
    path = shutil.copytree(tiny, tmp_path / "own")
    folder = tmp_path / "images" / "test"
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
    rows = []
    for number in range(12):
        colour = (20 * number, 255 - 20 * number, 128)
        Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"a red circle {'and a ' * number}"})
    for split in ("train", "test"):
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / "images" / split / "metadata.jsonl").write_text(lines)
    config = load_config(path / CONFIG)
    data = replace(config.data, name="folder", root=str(tmp_path / "images"))
    save_config(replace(config, data=data), path / CONFIG)
    return path, folder


def test_the_reference_is_made_anew_when_an_image_changes_under_it(own_images):
    path, folder = own_images
    (first,) = command(path, "--metrics", "fid", "--images", "12")
    for number in range(6):
        Image.new("RGB", (40, 40), (255, 0, 0)).save(folder / f"{number}.png")
    entries = command(path, "--metrics", "fid", "--images", "12")
    # Other data is another protocol: the old numbers stay what they were, the new ones are new.
    assert len(entries) == 2 and entries[0] == first
    assert entries[0]["protocol"]["fingerprint"] != entries[1]["protocol"]["fingerprint"]
    assert entries[0]["metrics"]["fid/damsm"] != entries[1]["metrics"]["fid/damsm"]


def test_the_fingerprint_is_of_content_and_not_of_names(own_images, tmp_path):
    _, folder = own_images
    copy = shutil.copytree(folder.parent, tmp_path / "elsewhere")
    found = [fingerprint(Folder(root, "test"), range(12)) for root in (folder.parent, copy)]
    assert found[0] == found[1]
    (copy / "test" / "metadata.jsonl").write_text(
        (copy / "test" / "metadata.jsonl").read_text().replace("red", "blue")
    )
    assert fingerprint(Folder(copy, "test"), range(12)) != found[0]
    assert fingerprint(Folder(folder.parent, "test"), range(11)) != found[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "r_precison"], "unknown metric 'r_precison'; the nearest is 'r_precision'"),
        (["--extractor", "inception2015"], "the nearest is 'inception-2015'"),
        (["--metrics", "is"], "metric is: none of damsm has a classifier"),
        (["--images", "0"], "images is 0; expected 1 or more"),
        (
            ["--extractor", "inception-2015", "--weights", "inception-2015=none.pt"],
            "none.pt: no such file",
        ),
        (["--weights", "inception=x.pt"], "write EXTRACTOR=FILE"),
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


def test_out_elsewhere_leaves_nothing_in_the_run(run_dir, tmp_path, capsys):
    out = tmp_path / "elsewhere" / "numbers.json"
    before = sorted(path.name for path in run_dir.iterdir())
    command(run_dir, "--images", "12", "--metrics", "r_precision,fid", "--out", str(out))
    (entry,) = load_entries(out)
    assert {row.split("/")[0] for row in entry["metrics"]} == {"r_precision", "fid"}
    assert sorted(path.name for path in run_dir.iterdir()) == before
    assert "pointing" not in capsys.readouterr().out


def test_a_metric_is_one_file_and_one_line(run_dir, monkeypatch):
    monkeypatch.setitem(METRICS, brightness.SPEC.name, brightness.SPEC)
    entry = measure(load_run(run_dir), Options(metrics=["brightness"], images=9, real_images=9))
    source = Scenes("test", images=24, max_objects=2)
    mean = sum(float(source.image(index, 32).mean()) for index in range(9)) / 9
    assert entry["metrics"]["brightness"]["real"]["value"] == pytest.approx(mean, abs=1e-5)
    assert entry["rows"]["brightness"]["settings"] == {"range": "-1..1"}
    assert entry["warnings"] == [{"metric": "brightness", "reason": "of 9 images"}]
    printed = table(entry)
    assert "mean brightness" in printed and "Bright is not good." in printed


def test_every_metric_describes_its_rows():
    for name, spec in METRICS.items():
        assert spec.name == name
        assert spec.better in ("higher", "lower", "")


def test_independent_encoders_judge_beside_the_runs_own(run_dir, tmp_path):
    other = make_tiny_run(tmp_path / "other")
    encoders = load_encoders(other)
    with torch.no_grad():
        encoders.image.code_head.weight.mul_(torch.randn(32, 1))
    save_encoders(encoders, other / ENCODERS)
    (entry,) = command(
        run_dir, "--images", "12", "--metrics", "r_precision", "--independent-encoder", str(other)
    )
    rows = ("r_precision", "r_precision/independent")
    assert set(rows) < set(entry["metrics"])
    own, independent = (entry["rows"][row]["settings"]["encoders"] for row in rows)
    assert own != independent


def test_independent_encoders_may_see_with_a_timm_trunk(run_dir, tmp_path):
    settings = replace(tiny_config().encoder, trunk="resnet10t", input_size=64)
    vocabulary = load_encoders(run_dir).vocabulary
    image = build_image_encoder(settings)
    encoders = Encoders(
        build_text_encoder(settings, len(vocabulary)), image, vocabulary, settings
    )  # fmt: skip
    save_encoders(encoders, tmp_path / ENCODERS)
    (entry,) = command(
        run_dir, "--images", "6", "--metrics", "r_precision", "--independent-encoder", str(tmp_path)
    )
    row = entry["rows"]["r_precision/independent"]
    assert row["settings"]["encoders"] == weights_hash(encoders.text, image)
    assert entry["metrics"]["r_precision/independent"]["trained"]["count"] == 6


@pytest.fixture
def refined(tmp_path):
    """A run whose newest checkpoint holds layout encoders, and these."""
    path = make_tiny_run(tmp_path / "alr", "alrgan")
    config = load_config(path / CONFIG)
    config = replace(config, refine=replace(config.refine, terms="alr"))
    save_config(config, path / CONFIG)
    assert refined_layouts(load_run(path)) is None
    run = load_run(path)
    stages = find_host("alrgan").stages(config, run.generator)
    (extra,) = refinement_terms(config, stages, run.encoders.image, World())
    networks = {name: network.state_dict() for name, network in extra.networks.items()}
    save_checkpoint(path, 16, {"networks": networks}, keep=1)
    return run, extra.refinements


def test_real_layouts_come_from_the_newest_checkpoint(refined):
    run, encoders = refined
    report = measure(run, Options(metrics=["pointing"], images=10, real_images=10))
    assert set(report["metrics"]["pointing/stage1"]) == {"real", "trained"}
    source = Scenes("test", images=24, max_objects=2)
    pairs = read_pairs(source, run.encoders.vocabulary, 18)
    images = torch.stack([source.image(index, 32) for index in range(10)])
    with torch.no_grad():
        text = run.encoders.text(pairs.ids[:10], pairs.lengths[:10])
        theta = encoders[0].eval().real_branch(images, text.words, pairs.lengths[:10])[1]
        made = run_layouts(run, pairs)(images, torch.arange(10))
        damsm = damsm_layout(run.encoders.image, images, text.words, pairs.lengths[:10])
    assert set(made) == {"stage1", "damsm"}
    torch.testing.assert_close(made["stage1"], theta)
    torch.testing.assert_close(made["damsm"], damsm)
    # Every region is distributed over the real words of its caption.
    torch.testing.assert_close(damsm.sum(dim=1), torch.ones(10, 8, 8))
    assert all(
        float(m[:, length:].abs().sum()) == 0
        for m, length in zip(damsm.split(1), pairs.lengths[:10].tolist(), strict=True)
    )
