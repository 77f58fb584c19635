"""Entries of `evaluation.json` that are none are named before a reader trips over them."""

import copy
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from baselines.errors import UserError
from baselines.metrics import record
from baselines.metrics.comparison import compare
from baselines.metrics.entry_shape import entry_fault
from baselines.metrics.record import load_entries, store
from tests.support.paths import ROOT

EVALUATED = ("cub", "demo")  # of the folders with results; the others hold files of other kinds
MEASURED = sorted(
    path for name in EVALUATED for path in (ROOT / "benchmarks/results" / name).glob("*.json")
)


@pytest.fixture
def entry():
    return copy.deepcopy(load_entries(MEASURED[0])[0])


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_what_was_measured_is_whole(path):
    assert load_entries(path) and not any(map(entry_fault, load_entries(path)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["rows"], None, "rows is None, expected an object"),
        (["protocol", "images"], "12", "protocol.images is '12', expected a number"),
        (["protocol", "images"], True, "protocol.images is True, expected a number"),
        (["protocol", "data"], {}, "protocol.data has no 'name'"),
        (["metrics", "new?"], 3, "metrics.new? is 3, expected an object"),
        (["metrics", "new"], {"real": {"value": None}}, "rows has no 'new'"),
        (["metrics", "new"], {"real": {}}, "metrics.new.real has no 'value'"),
        (["left_out"], {"is": 3}, "left_out.is is 3, expected a string"),
        (["warnings"], {}, "warnings is {}, expected a list"),
    ],
)
def test_damage_is_named(entry, place, value, message):
    holder = entry
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    assert message in entry_fault(entry)


@pytest.mark.parametrize("ends", [[], [1], [1, "2"], [1, 2, 3]])
def test_intervals_have_two_ends(entry, ends):
    row = next(iter(entry["metrics"]))
    entry["metrics"][row]["x"] = {"value": 1.0, "interval": ends}
    assert f"metrics.{row}.x.interval is {ends!r}, expected two numbers" in entry_fault(entry)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 2}', "holds no list of evaluations"),
        (
            '{"schema": 2, "evaluations": [{"protocol": 3}]}',
            "1 is damaged: the entry has no 'subje",
        ),
        (
            '{"schema": 2, "evaluations": [3]}',
            "evaluation 1 is damaged: the entry is 3, expected an",
        ),
        ('{"schema": 2, "evaluations": [NaN]}', "not JSON .NaN is no number"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, content, message):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        compare([tmp_path])
    assert "\n" not in str(raised.value)


def test_a_damaged_configuration_beside_it_is_named(tmp_path):
    (tmp_path / "evaluation.json").write_text(
        json.dumps({"schema": 2, "evaluations": load_entries(MEASURED[0])})
    )
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(UserError, match=r"config\.json: not readable as JSON"):
        compare([tmp_path])


def test_evaluations_that_end_at_the_same_time_keep_their_results(tmp_path, monkeypatch, entry):
    def slowly(path):
        found = load_entries(path)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(record, "load_entries", slowly)
    path = tmp_path / "new" / "evaluation.json"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store(path, {**entry, "subject": {"run": str(n)}}), range(4)))
    assert {each["subject"]["run"] for each in load_entries(path)} == {"0", "1", "2", "3"}
