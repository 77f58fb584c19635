"""Errors of the user's are one line; bugs of ours keep their traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from baselines import compare, evaluate, geneval, inventory, train
from baselines.cli import run_command
from baselines.errors import UserError
from baselines.hosts import HOSTS
from tests.support.paths import ROOT

COMMANDS = (
    "train",
    "damsm",
    "stream",
    "sample",
    "convert",
    "publish",
    "evaluate",
    "serve",
    "report",
)


def raising(error):
    def main(arguments=None):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("data.name='cup': expected cub"), "error: data.name='cup': expected cub"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/config.json"),
            "error: runs/x/config.json: No space left on device; free some space, or "
            "choose a folder on another disk",
        ),
        (OSError(errno.EIO, "Input/output error"), "error: Input/output error"),
        (
            PermissionError(errno.EACCES, "Permission denied", "r"),
            "error: r: Permission denied; choose a folder that you may write to, or change its "
            "permissions",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, line, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(raising(error))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_nothing_half_written(name, tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from baselines.cli import run_command
from baselines.files import write_atomic

def main(arguments):
    write_atomic(Path({str(tmp_path / "x.png")!r}), lambda file: [
        file.write(b"half"), os.kill(os.getpid(), signal.{name})])

run_command(main)
"""
    done = started(code)
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stderr == "interrupted\n" and not list(tmp_path.iterdir())


def test_what_standard_output_cannot_encode_is_written_out():
    code = """
from baselines.cli import run_command
run_command(lambda arguments: print("r\\u00e9d \\udcff"))
"""
    done = started(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "r\\xe9d \\udcff\n"), done.stderr


def test_what_a_file_says_does_not_steer_the_terminal(capsys):
    with pytest.raises(SystemExit):
        run_command(raising(UserError("x/\x1b]0;title\x07.png: broken\n  \x9b2Ja\tb")))
    assert capsys.readouterr().err == "error: x/\\x1b]0;title\\x07.png: broken\n  \\x9b2Ja\tb\n"


@pytest.mark.parametrize("error", [ValueError("shapes"), KeyError("x"), AssertionError()])
def test_a_bug_keeps_its_traceback_and_says_where_to_report_it(error, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(raising(error))
    text = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "Traceback" in text and type(error).__name__ in text
    assert "please report it at" in text.splitlines()[-1]


def started(code, *arguments, **environment):
    """Run Python code in a process of its own, as a command would be started."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# Runs `python -m baselines.X ...` and then says which of the slow packages were imported.
SLOW = """
import runpy, sys
try:
    runpy.run_module(f"baselines.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print(*(name for name in ("torch", "torchvision", "timm", "nltk", "gradio") if name in sys.modules),
      file=sys.stderr)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_wait_for_torch(command):
    done = started(SLOW, command, "--help")
    assert done.returncode == 0 and "--help" in done.stdout
    assert done.stderr.split() == []


@pytest.mark.parametrize("command", [*(["train", host] for host in HOSTS), ["damsm"], ["stream"]])
def test_a_dry_run_of_a_preset_does_not_wait_for_torch(command, tmp_path):
    new = str(tmp_path / "new")
    done = started(SLOW, *command, "--preset", "cub", "--run-dir", new, "--dry-run")
    assert done.returncode == 0 and '"max_words": 18' in done.stdout
    assert not set(done.stderr.split()) & {"torch", "torchvision", "timm", "nltk"}


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (train, ["attngan"], "the following arguments are required: --run-dir"),
        (train, ["attngan", "--run-dir", "x", "--sett", "x"], "unrecognized arguments: --sett x"),
        (train, ["attngan", "--run-dir", "x", "--refine", "lvr"], "argument --refine: invalid"),
        (
            evaluate,
            ["--run", "x", "--seed", str(2**70)],
            "argument --seed: 1180591620717411303424:",
        ),
        (geneval, ["--images-from", "x", "--seed", "1.5"], "argument --seed: '1.5' is no whole n"),
        (evaluate, [], "one of the arguments --run --images-from is required"),
        (evaluate, ["--run", "x", "--clip", "ViT"], "argument --clip: invalid choice: 'ViT'"),
        (inventory, ["--jsn"], "unrecognized arguments: --jsn"),
        (train, ["attngan", "--run-dir", ""], "argument --run-dir: is empty, expected a path"),
        (compare, ["", "x"], "argument RUN: is empty, expected a path"),
        (compare, [], "the following arguments are required: RUN"),
        (geneval, [], "the following arguments are required: --images-from"),
    ],
)
def test_mistyped_options_are_one_line(command, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith(f"error: {message}") and "--help" in line


@pytest.mark.parametrize(
    ("given", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_waiting_threads_yield_unless_the_user_says_otherwise(given, found, monkeypatch):
    """OpenMP tells what it was started with when it is loaded with torch."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):  # a command in this process has set them
        monkeypatch.delenv(name, raising=False)
    done = started(
        "from baselines.cli import run_command; run_command(lambda _: __import__('torch'))",
        OMP_DISPLAY_ENV="verbose",
        **given,
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this torch's OpenMP does not report its settings")
    assert f"OMP_WAIT_POLICY = '{found}'" in done.stderr
    # A short wait is still spent awake, unless the user has a policy of their own.
    assert ("GOMP_SPINCOUNT = '20000'" in done.stderr) == (not given)


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda argv: train.main(arguments))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_device_that_does_not_exist_is_one_line(tmp_path, capsys):
    arguments = ["attngan", "--run-dir", str(tmp_path / "run"), "--set", "run.device=foo"]
    assert "device 'foo' does not exist here" in refused(arguments, capsys)


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("here")
    for run in ("file", "file/run"):
        arguments = ["attngan", "--run-dir", str(tmp_path / run), "--set", "run.device=cpu"]
        line = refused(arguments, capsys)
        assert "file: " in line or "file/run: " in line
        assert "a file stands where a folder should be: move it away" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    tmp_path.chmod(0o500)
    arguments = ["attngan", "--run-dir", str(tmp_path / "run"), "--set", "run.device=cpu"]
    assert "choose a folder that you may write to" in refused(arguments, capsys)


def test_ctrl_c_is_one_line_even_while_modules_are_imported():
    interrupt = "import sys; sys.argv = ['-m']; import baselines; raise KeyboardInterrupt"
    within = (
        "from baselines.cli import run_command\n"
        "def main(argv): raise KeyboardInterrupt\n"
        "run_command(main)"
    )
    for program in (interrupt, within):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_closed_stream_is_not_the_number_of_the_next_file(tmp_path):
    program = (
        "from baselines.console import guard_streams\n"
        "guard_streams()\n"
        f"file = open({str(tmp_path / 'x')!r}, 'wb')\n"
        "import sys, os\n"
        "assert file.fileno() > 2, file.fileno()\n"
        "os.write(2, b'for nobody'); print('nobody', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, preexec_fn=lambda: os.close(2), check=False
    )
    assert done.returncode == 0 and (tmp_path / "x").read_bytes() == b""
