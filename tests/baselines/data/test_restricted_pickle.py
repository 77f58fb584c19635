"""Plain data come through, from any protocol and either Python; nothing else does or runs."""

import array
import io
import os
import pickle
import subprocess
from collections import Counter, OrderedDict, defaultdict
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.data.restricted_pickle import UnsafePickleError, load_pickle
from baselines.data.source import DataError
from tests.support.paths import require, shared

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-(2**31), 2**31), inner)
    ),
    max_leaves=12,
)


def write(path, content):
    path.write_bytes(content)
    return path


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_of_every_protocol(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.pickle"
    again = load_pickle(write(path, pickle.dumps(value, protocol)))
    assert again == value and repr(again) == repr(value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(5),
        np.arange(6, dtype="f4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        np.array(["one", "three"]),
        np.array([b"one", b"three"]),
        np.array([], dtype="u1"),
        np.array(3.5),
        np.array([True, False]),
    ],
    ids=str,
)
def test_numpy_arrays_of_every_protocol(tmp_path, value, protocol):
    content = {"here": [value, value], "list": [1, "a"]}
    again = load_pickle(write(tmp_path / "a.pickle", pickle.dumps(content, protocol)))
    assert again["list"] == [1, "a"]
    for array_again in again["here"]:
        assert type(array_again) is np.ndarray
        assert array_again.dtype == value.dtype and array_again.shape == value.shape
        assert np.array_equal(array_again, value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_scalars_of_every_protocol(tmp_path, protocol):
    values = [np.int64(-7), np.float32(0.5), np.bool_(True), np.str_("bird"), 1 - 2j, b""]
    again = load_pickle(write(tmp_path / "s.pickle", pickle.dumps(values, protocol)))
    assert again == values and [type(x) for x in again] == [type(x) for x in values]


PYTHON_2_ARRAY = rb"""cnumpy.core.multiarray
_reconstruct
p0
(cnumpy
ndarray
p1
(I0
tp2
S'b'
p3
tp4
Rp5
(I1
(I3
tp6
cnumpy
dtype
p7
(S'i2'
p8
I0
I1
tp9
Rp10
(I3
S'<'
p11
NNNI-1
I-1
I0
tp12
bI00
S'\x01\x00\xff\x00\x00\x80'
p13
tp14
b."""


def test_python_2_array_with_bytes_above_127(tmp_path):
    again = load_pickle(write(tmp_path / "class_info.pickle", PYTHON_2_ARRAY))
    assert again.tolist() == [1, 255, -32768]


def test_python_2_strings_and_longs(tmp_path):
    content = b"(lp0\nS'caf\\xe9'\np1\naV\\u00e9\np2\naL12L\naI01\na."
    assert load_pickle(write(tmp_path / "x.pickle", content)) == ["caf\u00e9", "\u00e9", 12, True]


def test_real_metadata():
    root = require(shared("data", "cub"))
    assert len(load_pickle(root / "train" / "filenames.pickle")) == 8855
    assert len(load_pickle(root / "test" / "class_info.pickle")) == 2933


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", ["system", "exec", "popen", "getattr"])
def test_malicious_pickle_runs_nothing(tmp_path, monkeypatch, protocol, function):
    proof = tmp_path / "it-ran"
    touch = f"open({str(proof)!r}, 'w').close()"
    payload = {
        "system": Calls(os.system, f"touch '{proof}'"),
        "exec": Calls(exec, touch),
        "popen": Calls(subprocess.check_call, ["touch", str(proof)]),
        "getattr": Calls(eval, f"getattr(__builtins__, 'open', None) or 1 if {touch} else 2"),
    }[function]
    content = pickle.dumps([1, {"words": payload}], protocol)

    pickle.loads(content)
    assert proof.exists(), "the payload must work where it is not refused"
    proof.unlink()

    with pytest.raises(UnsafePickleError, match=r"asks for [\w.]+: refused.*nothing of it was run"):
        load_pickle(write(tmp_path / "evil.pickle", content))
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"(cposix\nsystem\nS'true'\no.", "posix.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.", r"numpy.dtype.__new__"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"c__builtin__\neval\n.", "__builtin__.eval"),
    ],
)
def test_every_way_to_ask_for_a_global_is_closed(tmp_path, content, asked):
    with pytest.raises(UnsafePickleError, match=f"x.pickle asks for {asked}: refused"):
        load_pickle(write(tmp_path / "x.pickle", content))


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        bytearray(b"x"),
        OrderedDict(a=1),
        Counter("ab"),
        defaultdict(list),
        Fraction(1, 2),
        array.array("i", [1]),
        torch.zeros(1),
        np.array([{}, None], dtype=object),
        np.zeros(2, dtype=[("a", "i4")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.dtype("i4"),
        np.ndarray,
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_refused(tmp_path, value):
    with pytest.raises(UnsafePickleError, match="Only lists, dicts, tuples"):
        load_pickle(write(tmp_path / "x.pickle", pickle.dumps([value])))


@pytest.mark.parametrize("name", ["numpy\nndarray", "numpy\ndtype", "_codecs\nencode"])
def test_what_stands_for_a_global_cannot_be_changed(tmp_path, name):
    content = f"c{name}\n(dS'_make'\nI1\nsb.".encode()
    with pytest.raises(UnsafePickleError):
        load_pickle(write(tmp_path / "x.pickle", content))


def test_codec_must_be_latin1(tmp_path):
    content = b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR."
    with pytest.raises(UnsafePickleError, match="codec 'rot13'"):
        load_pickle(write(tmp_path / "x.pickle", content))


def test_shared_references_are_visited_once(tmp_path):
    bomb = [np.arange(2)]
    for _ in range(60):
        bomb = [bomb, bomb]
    again = load_pickle(write(tmp_path / "x.pickle", pickle.dumps(bomb)))
    for _ in range(60):
        again = again[1]
    assert again[0].tolist() == [0, 1]


def test_endless_nesting_is_refused(tmp_path):
    loop = [{}]
    loop.append(loop)
    deep = b"(l" * 5000 + b"a" * 4999 + b"."
    for content in (pickle.dumps(loop), deep):
        with pytest.raises(UnsafePickleError, match="nested deeper"):
            load_pickle(write(tmp_path / "x.pickle", content))


@given(st.binary(max_size=60))
def test_rubbish_is_a_data_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "rubbish.pickle"
    try:
        load_pickle(write(path, content))
    except DataError as error:
        assert "rubbish.pickle" in str(error)


def test_every_truncation_is_a_data_error(tmp_path):
    content = pickle.dumps({"words": ["a", "b"], "ids": np.arange(3)}, 2)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"x\.pickle is not a readable pickle"):
            load_pickle(write(tmp_path / "x.pickle", content[:length]))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.pickle cannot be read: No such file"):
        load_pickle(tmp_path / "none.pickle")


def test_plain_pickle_module_would_have_looked_these_up():
    # The list of refused globals is only worth something if pickle itself knows them.
    assert pickle.Unpickler(io.BytesIO(b"cos\nsystem\n.")).load() is os.system
