"""A data set of one file and one line goes through every command."""

import pytest
import torch

from baselines import damsm, evaluate, sample, train
from baselines.cli import SOURCES
from baselines.config import DataConfig
from baselines.data import BaseSource, DataError, SourceEntry, open_source
from baselines.errors import UserError
from baselines.metrics.record import load_entries
from baselines.runs import load_encoders
from baselines.training.stats import read_stats
from tests.baselines.commands import train_command

COLOURS = ("red", "green", "blue")


class Patches(BaseSource):
    """One colour each; as little as a source can say of itself."""

    @classmethod
    def open(cls, data, split):
        return cls("patches", split)

    def __len__(self):
        return 12 if self.split == "train" else 6

    def pixels(self, index, size, *, rng=None):
        image = torch.zeros(3, size, size, dtype=torch.uint8)
        image[index % 3] = 255 - 5 * index
        return image

    def captions(self, index):
        return (f"a {COLOURS[index % 3]} patch", f"this patch is {COLOURS[index % 3]}")

    def key(self, index):
        return f"{self.split}-{index}"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(SOURCES, "patches", SourceEntry(f"{__name__}:Patches", "coloured patches"))


def test_it_trains_draws_evaluates_and_resumes(tmp_path):
    encoders, run = tmp_path / "damsm", tmp_path / "run"
    arguments = ["--preset", "demo", "--run-dir", str(encoders)]
    for setting in ("data.name=patches", "encoder.images=16", "encoder.batch_size=4",
                    "encoder.embedding_dim=16", "run.device=cpu"):  # fmt: skip
        arguments += ["--set", setting]
    damsm.main(arguments)
    assert set(load_encoders(encoders).vocabulary.words) >= {*COLOURS, "patch"}

    def trained(steps):
        train.main(train_command("alrgan", run, encoders, steps, "data.name=patches"))
        return read_stats(run / "stats.jsonl")[-1]

    last = trained(2)
    assert last["images"] == 8 and any("alr" in name for name in last)
    assert trained(4)["images"] == 16
    sample.main(["--run", str(run), "--out", str(tmp_path / "drawn")])
    assert list((tmp_path / "drawn").glob("*.png"))
    evaluate.main(["--run", str(run)])
    (entry,) = load_entries(run / evaluate.RESULT)
    assert "r_precision" in entry["metrics"] and "layout" in entry["left_out"]


def test_help_and_errors_know_it(capsys, tmp_path):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "patches" in capsys.readouterr().out
    expected = r"data\.name='patch': expected one of 'scenes', .*'patches'"
    with pytest.raises(UserError, match=expected):
        train.main(train_command("alrgan", tmp_path, tmp_path, 1, "data.name=patch"))


def test_unregistered_it_is_unknown(monkeypatch):
    monkeypatch.delitem(SOURCES, "patches")
    with pytest.raises(DataError, match=r"data\.name is 'patches'"):
        open_source(DataConfig(name="patches"), "train")
