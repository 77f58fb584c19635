"""Errors of the user's are one line; bugs of ours keep their traceback."""

import errno

import pytest

from baselines.cli import run_command
from baselines.errors import UserError


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
