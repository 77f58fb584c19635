"""Files appear whole or not at all, and one flipped byte anywhere in them is noticed."""

import ast
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines import files
from baselines.config import Config, load_config, save_config
from baselines.data.vocabulary import Vocabulary
from baselines.errors import UserError
from baselines.files import DamagedFileError, write_atomic
from baselines.training.checkpoint import load_torch, load_weights, save_torch, save_weights
from tests.support.paths import ROOT


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def write_config(path):
    save_config(Config(), path)


def write_vocabulary(path):
    Vocabulary(["red", "bird"]).save(path)


def write_checkpoint(path):
    save_torch({"weights": torch.arange(40.0), "step": 3}, path, images=12)


def write_weights(path):
    save_weights(nn.Linear(3, 2), path, images=7)


def read_weights(path):
    load_weights(nn.Linear(3, 2), path)


SEALED = [
    ("config.json", write_config, load_config),
    ("vocabulary.json", write_vocabulary, Vocabulary.load),
    ("encoders.pt", write_checkpoint, load_torch),
    ("generator.safetensors", write_weights, read_weights),
]
NAMES = [name for name, _, _ in SEALED]


@pytest.mark.parametrize(("name", "write", "read"), SEALED, ids=NAMES)
def test_every_flipped_byte_is_noticed(name, write, read, tmp_path):
    path = tmp_path / name
    write(path)
    assert files.is_sealed(path)
    read(path)
    whole = path.read_bytes()
    places = range(len(whole)) if len(whole) < 500 else range(0, len(whole), len(whole) // 200)
    for place in [*places, *range(len(whole) - 160, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            read(path)


@pytest.mark.parametrize(("name", "write", "read"), SEALED, ids=NAMES)
def test_a_file_cut_short_is_noticed(name, write, read, tmp_path):
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    for length in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=name):
            read(path)


def test_files_without_a_seal_still_open(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"run": {"seed": 3}}, indent=2))
    assert load_config(tmp_path / "config.json").run.seed == 3
    torch.save({"a": 1}, tmp_path / "old.pt")
    assert load_torch(tmp_path / "old.pt") == {"a": 1}
    for name in ("config.json", "old.pt"):
        assert not files.is_sealed(tmp_path / name)


def test_sealed_files_are_what_other_programs_read(tmp_path):
    import zipfile

    from safetensors.torch import load_file

    for name, write, _ in SEALED:
        write(tmp_path / name)
    assert json.loads((tmp_path / "config.json").read_text())["run"]["seed"] == 0
    assert torch.load(tmp_path / "encoders.pt", weights_only=True)["step"] == 3
    assert torch.load(tmp_path / "encoders.pt", weights_only=True, mmap=True)["step"] == 3
    assert zipfile.ZipFile(tmp_path / "encoders.pt").testzip() is None
    assert set(load_file(tmp_path / "generator.safetensors")) == {"weight", "bias"}


@pytest.mark.parametrize(
    "text", ["[]", "3", "{", '{"run": 1', "\xff", "[" * 100_000, '{"a":' * 100_000]
)
def test_json_that_is_none_of_ours_is_one_line(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json") as raised:
        load_config(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(content=st.dictionaries(st.text().filter(lambda key: key != "sha256"), values))
def test_json_comes_back_as_it_was(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "x.json"
    files.write_json(path, content)
    assert files.is_sealed(path) and files.read_json(path) == content


def test_damage_is_told_from_absence(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="a folder, not a file"):
        files.read_json(tmp_path)
    files.write_json(tmp_path / "x.json", {"a": 1})
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("1", "2", 1))
    with pytest.raises(DamagedFileError, match=r"x\.json: .*changed after it was written"):
        files.read_json(tmp_path / "x.json")


def limited(size: int, program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that may write files of at most `size` bytes, as if the disk were full."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_full_disk_leaves_the_old_file_and_names_the_new_one(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"old")
    done = limited(
        2000,
        f"""
import numpy, torch
from pathlib import Path
from baselines import files
from baselines.training.checkpoint import save_torch
path = Path({str(tmp_path)!r}, "x.pt")
writers = [
    lambda: save_torch({{"a": torch.zeros(9000)}}, path),
    lambda: files.write_bytes(path, bytes(9000)),
    lambda: files.write_atomic(path, lambda file: numpy.savez(file, a=numpy.zeros(9000))),
]
for write in writers:
    try:
        write()
    except OSError as error:
        assert error.filename == str(path) and error.strerror == "File too large", error
    else:
        raise SystemExit("nothing raised")
""",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.pt").read_bytes() == b"old" and os.listdir(tmp_path) == ["x.pt"]


def test_what_killed_writers_left_is_swept(tmp_path):
    mine = tmp_path / f".a.pt.{os.getpid()}.partial"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = tmp_path / "grids" / f".b.png.{dead.pid}.partial"
    alive = tmp_path / f".c.json.{os.getppid()}.partial"
    other = tmp_path / ".hidden"
    (tmp_path / "grids").mkdir()
    for path in (mine, gone, alive, other):
        path.write_bytes(b"half")
    os.utime(alive)
    assert sorted(files.sweep(tmp_path)) == sorted([mine, gone])
    assert alive.exists() and other.exists()
    os.utime(alive, (0, 0))
    assert files.sweep(tmp_path) == [alive]


WRITING = {"write_text", "write_bytes", "savefig", "savez", "dump", "save_file"}
OPENED = {"file", "picture", "buffer"}  # what the one writer opened, or memory


def unsafe_writes(path: Path) -> list[str]:
    """Calls that fill a file under its final name: open for writing, `Path.write_text`, ..."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = {a.value for a in arguments if isinstance(a, ast.Constant)}
        owner, _, name = called.rpartition(".")
        opens = name == "open" and modes & {"w", "wb", "w+b", "x"}
        writes = owner not in ("", "files") and (
            name in WRITING or called in ("torch.save", "np.save", "image.save", "picture.save")
        )
        if opens or (writes and not {ast.unparse(a) for a in arguments} & OPENED):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}")
    return found


def test_one_writer_writes_all_files():
    sources = [p for folder in ("baselines", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    found = [line for path in sources for line in unsafe_writes(path)]
    # The second hands its result over in a temporary folder that only its parent knows; the third
    # is a word to the kernel.
    known = (
        "baselines/files.py",
        "baselines/conversion/foreign_child.py",
        "benchmarks/efficiency.py",
    )
    assert [line for line in found if not line.startswith(known)] == []
