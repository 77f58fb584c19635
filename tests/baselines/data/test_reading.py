"""Files of unknown origin: bounded, regular, and quoted shortly."""

import pytest

from baselines.data.reading import quoted, read_bytes, read_lines
from baselines.data.source import DataError


def test_what_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(2**41)
    with pytest.raises(DataError, match=r"hole has 2,199,023,255,552 bytes, more than 10:"):
        read_bytes(tmp_path / "hole", 10)
    (tmp_path / "fits").write_bytes(b"0123456789")
    assert read_bytes(tmp_path / "fits", 10) == b"0123456789"


def test_only_line_feeds_end_a_line(tmp_path):
    (tmp_path / "x").write_bytes("\ufeffa\u2028b\r\nc\x85d\n".encode())
    assert read_lines(tmp_path / "x") == ["a\u2028b", "c\x85d", ""]


class Angry:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**5000, [["a\nb"] * 99] * 99, Angry(), {1: {2: {3: {4: {5: 6}}}}}],
    ids=range(5),
)
def test_any_value_is_quoted_in_a_short_line(value):
    assert len(quoted(value)) < 600 and "\n" not in quoted(value)


def test_ordinary_values_are_quoted_as_they_are():
    for value in (3, "a bird", ["a", 1], {"a": None}):
        assert quoted(value) == repr(value)
