import shutil
import sys

import pytest
import torch

from baselines import compare, evaluate
from baselines.cli import run_command
from baselines.errors import UserError
from baselines.metrics.comparison import MixedSettingsError
from baselines.runs import ENCODERS, load_encoders, save_encoders
from tests.support.tiny_run import make_rival_run, make_tiny_run


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs on the same encoders whose generators and one setting differ."""
    folder = tmp_path_factory.mktemp("runs")
    first = make_tiny_run(folder / "host")
    return first, make_rival_run(first, folder / "refined")


def measured(run, *options):
    evaluate.main(["--run", str(run), "--images", "20", "--device", "cpu", *options])


@pytest.fixture
def runs(pair, tmp_path):
    copies = [shutil.copytree(run, tmp_path / run.name) for run in pair]
    for run in copies:
        measured(run, "--metrics", "r_precision,fid,graded")
    return copies


def test_the_table_has_a_column_a_run_and_what_differs(runs, tmp_path, capsys):
    capsys.readouterr()
    compare.main([*map(str, runs), "--out", str(tmp_path / "table.md")])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert [c.strip() for c in lines[0].strip("|").split("|")] == [
        "metric", "host", "refined", "real images",
    ]  # fmt: skip
    fid = next(line for line in lines if line.startswith("| Fréchet"))
    assert fid.count("**") == 2
    assert "- loss.damsm: host: 5.0, refined: 2.0" in lines
    assert (tmp_path / "table.md").read_text() == printed


@pytest.mark.parametrize("option", [("--seed", "1"), ("--real-images", "12"), ("--images", "10")])
def test_other_settings_are_refused_by_name(pair, tmp_path, option):
    copies = [shutil.copytree(run, tmp_path / run.name) for run in pair]
    measured(copies[0], "--metrics", "r_precision")
    measured(copies[1], "--metrics", "r_precision", *option)
    with pytest.raises(MixedSettingsError, match=option[0].strip("-").replace("-", "_")):
        compare.main([*map(str, copies)])
    # The first measured in the second's way as well: now there is something to compare.
    measured(copies[0], "--metrics", "r_precision", *option)
    compare.main([*map(str, copies)])


def test_a_row_by_other_encoders_is_left_out_and_named(runs, capsys):
    encoders = load_encoders(runs[1])
    with torch.no_grad():
        encoders.image.code_head.weight.mul_(1.5)
    save_encoders(encoders, runs[1] / ENCODERS)
    (runs[1] / "evaluation.json").unlink()
    measured(runs[1], "--metrics", "r_precision,graded")
    capsys.readouterr()
    compare.main([*map(str, runs)])
    printed = capsys.readouterr().out
    assert "measured differently: r_precision (encoders)" in printed
    assert not any(line.startswith("| R-precision") for line in printed.splitlines())
    assert any("stated colour" in line for line in printed.splitlines())


def test_a_run_without_an_evaluation_and_one_run_alone_are_named(pair, monkeypatch, capsys):
    with pytest.raises(UserError, match=r"host: not evaluated; run python -m baselines.evaluate"):
        compare.main([str(pair[0]), str(pair[1])])
    monkeypatch.setattr(sys, "argv", ["compare", str(pair[0])])
    with pytest.raises(SystemExit) as stopped:
        run_command(compare.main)
    assert stopped.value.code == 2 and "two or more" in capsys.readouterr().err
