"""Small pickles that would hang, crash or fill memory are refused before they can."""

import os
import pickle
import pickletools
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.data import pickle_scan
from baselines.data.cub import Cub
from baselines.data.originals import vocabulary_from_captions_pickle
from baselines.data.pickle_scan import check_opcodes
from baselines.data.restricted_pickle import load_pickle
from tests.baselines.data.makers import make_cub
from tests.support.bounded import bounded

PROTO = b"\x80\x02"


def hash_bomb(levels=100):
    """{t: None} with t = (t', t'), t' = (t'', t''), ...: hashing visits 2^levels tuples."""
    return PROTO + b"}q\xff" + _pairs(levels) + b"h\xffh" + bytes([levels]) + b"Ns."


def set_bomb(levels=100):
    return b"\x80\x04" + _pairs(levels) + b"\x8f(h" + bytes([levels]) + b"\x90."


def _pairs(levels):
    numbers = (bytes([n]) for n in range(levels))
    return b"K\x01q\x00" + b"".join(
        b"h" + n + b"h" + n + b"\x86q" + bytes([n[0] + 1]) for n in numbers
    )


def nested_tuples(levels=1_000_000):
    return PROTO + b")" + b"\x85" * levels + b"."


def memo_bomb():
    return PROTO + b"Nr\xff\xff\xff\x11."


def encodes(times=5000, size=1_000_000):
    text = b"X" + struct.pack("<I", size) + b"x" * size
    call = b"h\x00h\x01\x85R"
    return PROTO + b"c_codecs\nencode\nq\x000" + text + b"q\x010(" + call * times + b"l."


def arrays(times=5000, size=1_000_000):
    """The same with numpy arrays that share their content."""
    content = b"B" + struct.pack("<I", size) + b"x" * size
    kind = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
    shape = b"J" + struct.pack("<i", size) + b"\x85"
    call = b"h\x00(h\x01h\x02h\x03X\x01\x00\x00\x00CtR"
    start = b"cnumpy.core.numeric\n_frombuffer\nq\x000" + content + b"q\x010" + kind + b"q\x020"
    return b"\x80\x03" + start + shape + b"q\x030(" + call * times + b"l."


def colliding(keys=60_000):
    prime = sys.hash_info.modulus
    numbers = b"".join(
        b"\x8a" + bytes([len(b)]) + b + b"N"
        for b in (pickle.encode_long(prime * n) for n in range(1, keys + 1))
    )
    return PROTO + b"}(" + numbers + b"u."


def shared_lists(levels=60):
    value = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


BOMBS = {
    "hash": (hash_bomb(), "keys that are neither"),
    "set": (set_bomb(), "holds a set"),
    "tuples": (nested_tuples(), "nested deeper"),
    "memo": (memo_bomb(), "a memo of"),
    "encodes": (encodes(), "far more data than it holds"),
    "arrays": (arrays(), "far more data than it holds"),
    "colliding": (colliding(), "keys that are neither"),
    "long key": (PROTO + b"}L" + b"9" * 5000 + b"L\nNs.", "keys that are neither"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_go_off(tmp_path, name):
    content, reason = BOMBS[name]
    path = tmp_path / "bomb.pickle"
    path.write_bytes(content)
    kind, message = bounded(load_pickle, path)
    assert kind == "UnsafePickleError", message
    assert reason in message and "\n" not in message and len(message) < 600


@pytest.mark.parametrize(
    "content",
    [
        [[shared_lists()], [], {0: "<end>"}, {"<end>": 0}],
        [[], [], {0: "<end>", 1: shared_lists()}, {"<end>": 0, "x": 1}],
        [[], [], {0: "<end>", 1: "x"}, {"<end>": 0, "x": shared_lists()}],
        [[], [], {0: "<end>", 1: (1, 2)}, {"<end>": 0, "x": 1}],
        [[], [], {0: "<end>", "1": "x"}, {"<end>": 0, "x": 1}],
        [[["a"]], [], {0: "<end>", 1: "x"}, {"<end>": 0, "x": 1}],
    ],
    ids=["shared captions", "shared word", "shared id", "tuple", "text id", "text caption"],
)
def test_captions_of_another_form_are_one_short_line(tmp_path, content):
    path = tmp_path / "captions.pickle"
    path.write_bytes(pickle.dumps(content))
    kind, message = bounded(vocabulary_from_captions_pickle, path)
    assert kind == "DataError", message
    assert "captions.pickle" in message and "\n" not in message and len(message) < 400


VALUES = {"lists": shared_lists(), "text": "x" * 10**6, "number": 10**5000}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("name", ["filenames", "class_info"])
def test_names_and_classes_of_another_form_are_one_short_line(tmp_path, name, kind):
    root, value = make_cub(tmp_path), VALUES[kind]
    (root / "train" / f"{name}.pickle").write_bytes(pickle.dumps([value, value]))
    outcome, message = bounded(Cub, root, "train", seconds=5)
    assert outcome == "DataError" and f"{name}.pickle" in message, message
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_pipes_devices_and_folders_are_no_files(tmp_path, make):
    make(tmp_path / "x.pickle")
    kind, message = bounded(load_pickle, tmp_path / "x.pickle", seconds=2)
    assert kind == "DataError" and "no regular file" in message


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-(2**31), 2**31), inner)
    ),
    max_leaves=20,
)


def depth(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, (list, tuple)) else 0


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_the_walk_knows_how_deep_plain_data_are(value, protocol, memo):
    content = pickle.dumps(value, protocol)
    content = content if memo else pickletools.optimize(content)
    for limit in (depth(value) - 1, depth(value)):
        if limit < 1:
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pickle_scan, "MAX_DEPTH", limit)
            if limit < depth(value):
                with pytest.raises(pickle_scan.UnsafePickleError, match=f"deeper than {limit}"):
                    check_opcodes(content)
            else:
                check_opcodes(content)


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL), st.data())
def test_the_walk_fails_where_pickle_fails(value, protocol, data):
    content = bytearray(pickle.dumps([value, {"a": 1}], protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_opcodes(bytes(content))
    except pickle_scan.UnsafePickleError:
        return
    except Exception:
        with pytest.raises(Exception):  # noqa: B017 - a damaged pickle fails in any way
            pickle.loads(bytes(content), encoding="latin1")
