"""Logs that grow line by line, cut off anywhere."""

import json
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.errors import UserError
from baselines.json_lines import append_line, read_lines

ENTRIES = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers()),
    min_size=1,
    max_size=4,
)


@given(ENTRIES, st.data())
def test_cut_off_anywhere_it_keeps_what_was_whole_and_goes_on(tmp_path_factory, entries, data):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    for entry in entries:
        append_line(path, entry)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    # An entry is whole once its last brace is there, with or without the end of its line.
    ends = accumulate(len(line) for line in whole.splitlines(keepends=True))
    kept = [entry for entry, end in zip(entries, ends, strict=True) if cut >= end - 1]
    assert read_lines(path) == kept
    append_line(path, {"new": 1})
    assert read_lines(path) == [*kept, {"new": 1}]
    assert all(json.loads(line) is not None for line in path.read_text().split("\n")[:-1])


def test_no_file_is_no_entry(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("line", ["{", "[]", "3", "null", "{'a': 1}", "[" * 100_000])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"a": 1}}\n\n{line}\n{{"a": 2}}\n')
    with pytest.raises(UserError, match=r"log.jsonl: line 3 is damaged; delete it"):
        read_lines(path)


def test_what_does_not_hold_of_an_entry_is_damage(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"stop": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_lines(path, lambda entry: entry["step"] > 0)


def test_a_folder_is_no_log(tmp_path):
    with pytest.raises(UserError, match="a folder, not a file"):
        read_lines(tmp_path)
    with pytest.raises(OSError, match=str(tmp_path)):
        append_line(tmp_path, {})
