"""Experiment trackers: told all that the log holds, gone on with, and never the end of a run."""

import json
import sys
from types import ModuleType

import pytest

from baselines.config import Config, RunConfig, flat
from baselines.errors import UserError
from baselines.training.stats import StatsWriter, read_stats
from baselines.training.trackers import open_trackers
from tests.baselines.commands import train_tiny


class Run:
    """What both packages return from `init`."""

    def __init__(self, options):
        self.options, self.logged, self.finished, self.fails = options, [], False, False

    def log(self, data, step=None):
        if self.fails:
            raise ConnectionError("no way\nto the server")
        self.logged.append((step, data))

    def finish(self):
        self.finished = True


@pytest.fixture(params=["trackio", "wandb"])
def package(request, monkeypatch):
    """A module of that name with the part of its interface that is used; `runs` are its runs."""
    module = ModuleType(request.param)
    module.runs = []

    def init(project=None, name=None, config=None, resume=None, **further):
        given = {"project": project, "name": name, "config": config, "resume": resume, **further}
        module.runs.append(Run(given))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_a_tracker_is_told_all_that_the_log_holds(package, tmp_path, encoders):
    wanted = (f"run.tracker={package.__name__}", "run.project=birds")
    train_tiny("attngan", tmp_path / "red", encoders, 4, *wanted)
    train_tiny("attngan", tmp_path / "red", encoders, 6, *wanted)
    lines = read_stats(tmp_path / "red" / "stats.jsonl")
    told = [{"step": step, **data} for run in package.runs for step, data in run.logged]
    assert told == lines and [line["step"] for line in lines] == [2, 4, 6]
    first, second = (run.options for run in package.runs)
    assert first["name"] == second["name"] and first["name"].startswith("red-")
    assert first["project"] == "birds" and first["resume"] == second["resume"] == "allow"
    assert first["config"]["optim.batch_size"] == 4 and first["config"]["model.name"] == "attngan"
    assert all(run.finished for run in package.runs)
    assert ("id" in first) == (package.__name__ == "wandb")
    assert first.get("id", "") == second.get("id", "")


def configured(package) -> Config:
    return Config(run=RunConfig(tracker=package.__name__))


def test_every_run_is_an_experiment_of_its_own(package, tmp_path):
    for folder in ("a/run", "b/run"):
        (tmp_path / folder).mkdir(parents=True)
        open_trackers(configured(package), tmp_path / folder, 0)
    first, second = (run.options["name"] for run in package.runs)
    assert first != second
    assert package.runs[0].options["config"] == flat(configured(package))
    json.dumps(package.runs[0].options["config"])


def test_a_tracker_that_fails_is_left_out(package, tmp_path, caplog):
    writer = StatsWriter(tmp_path, trackers=open_trackers(configured(package), tmp_path, 0))
    (run,) = package.runs
    writer.write(1, {"x": 1.0, "note": "words are not numbers"})
    run.fails = True
    writer.write(2, {"x": 2.0})
    writer.write(3, {"x": 3.0})
    writer.close()
    assert run.logged == [(1, {"x": 1.0})]
    assert [line["step"] for line in read_stats(tmp_path / "stats.jsonl")] == [1, 2, 3]
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"run.tracker={package.__name__}: failed (ConnectionError: no way to the server)" in line


def test_one_that_cannot_begin_is_one_line(package, tmp_path, monkeypatch):
    def init(**options):
        raise RuntimeError("api_key not configured\nrun wandb login")

    monkeypatch.setattr(package, "init", init)
    with pytest.raises(UserError, match="could not begin") as caught:
        open_trackers(configured(package), tmp_path, 0)
    assert "\n" not in str(caught.value) and "log in to" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "name"), [("tracker", "trackio"), ("tracker", "wandb"), ("tensorboard", None)]
)
def test_a_missing_package_is_named_with_its_command(setting, name, tmp_path, monkeypatch):
    missing = name or "torch.utils.tensorboard"
    monkeypatch.setitem(sys.modules, missing, None)
    config = Config(run=RunConfig(**{setting: name or True}))
    package = name or setting
    with pytest.raises(UserError, match=f"needs the {package} package: pip install {package}$"):
        open_trackers(config, tmp_path, 0)
