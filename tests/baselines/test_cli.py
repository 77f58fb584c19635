"""Errors of the user's are one line; bugs of ours keep their traceback."""

import errno
import os
import subprocess
import sys

import pytest

from baselines import train
from baselines.cli import run_command
from baselines.errors import UserError
from tests.support.paths import ROOT


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


@pytest.mark.parametrize("error", [ValueError("shapes"), KeyError("x"), AssertionError()])
def test_a_bug_keeps_its_traceback_and_says_where_to_report_it(error, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(raising(error))
    text = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "Traceback" in text and type(error).__name__ in text
    assert "please report it at" in text.splitlines()[-1]


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
