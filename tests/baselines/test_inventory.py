"""`python -m baselines.runs`: what there is, without opening any weights."""

import json
import os
import subprocess
import sys

import pytest

from baselines.config import Config, OptimConfig, save_config
from baselines.errors import UserError
from baselines.inventory import best, main
from baselines.training.checkpoint import save_checkpoint
from baselines.training.lock import locked
from baselines.training.stats import StatsWriter
from tests.support.paths import ROOT
from tests.support.tiny_run import make_tiny_run


@pytest.fixture
def folder(tmp_path):
    for name, images in (("half", 8), ("whole", 16), ("new", 0)):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        save_config(Config(optim=OptimConfig(images=16)), run / "config.json")
        if images:
            save_checkpoint(run, images, {"progress": {"images": images}}, keep=2)
            writer = StatsWriter(run)
            writer.write(1, {"G/total": 5.0, "fid/inception": 30.0})
            writer.write(2, {"fid/inception": 20.0})
            writer.write(3, {"fid/inception": 25.0})
    make_tiny_run(tmp_path / "runs" / "deep" / "converted")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("[]")
    return tmp_path / "runs"


def test_every_run_is_listed_with_its_status(folder, capsys):
    with locked(folder / "new"):
        main([str(folder), "--json"])
    found = {entry["path"].split("/")[-1]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: entry["status"] for name, entry in found.items() if name != "broken"} == {
        "half": "stopped",
        "whole": "done",
        "new": found["new"]["status"],
        "converted": "weights only",
    }
    assert found["new"]["status"].startswith(f"training (process {os.getpid()} on ")
    assert "expected a JSON object" in found["broken"]["status"]
    assert found["half"]["images"] == 8 and found["half"]["total"] == 16
    assert found["half"]["best"] == "fid/inception 20 at step 2"
    size = sum(path.stat().st_size for path in (folder / "half").iterdir())
    assert found["half"]["size"] == size


def test_more_is_better_where_it_is():
    recalls = ((1, 0.2), (2, 0.5), (3, 0.4))
    lines = [{"step": step, "validation/text_to_image/R@5": recall} for step, recall in recalls]
    assert best(lines) == "validation/text_to_image/R@5 0.5 at step 2"
    assert best([{"step": 4, "x": 1.0}]) == "" == best([])


def test_the_command_prints_a_table(folder):
    done = subprocess.run(
        [sys.executable, "-m", "baselines.runs", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["run", "model", "status", "images", "best", "size"]
    assert len(lines) == 6 and any("16 of 16" in line and "done" in line for line in lines)


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        main([str(tmp_path / "nowhere")])
    main([str(tmp_path)])
    assert "no runs" in capsys.readouterr().out
