"""Standard streams that may be closed, and Ctrl-C before a command has begun."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

# C0 and C1: what moves the cursor, colours the screen, sets the window's title.
CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
INTERRUPTED = "interrupted"
STATUS_INTERRUPTED = 130


def guard_streams() -> None:
    """Put the null device where a standard stream is closed (`2>&-`).

    Otherwise the next file that is opened takes its number, and messages end up in a checkpoint.
    What standard output cannot encode, a caption in a Latin locale or a name of any bytes, is
    written out: a command that has done its work shall not fail at telling so.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with its control characters written out, but for those to `keep`.

    >>> printable("a red\x1b[2J\nstar")
    'a red\\x1b[2J\\x0astar'
    """
    table = {code: f"\\x{code:02x}" for code in CONTROLS if chr(code) not in keep}
    return text.translate(table)


def say(message: str) -> None:
    """A message on standard error, if anybody listens.

    It may quote names and captions out of anybody's files, which shall not steer the terminal.
    """
    try:
        print(printable(message, keep="\n\t"), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def leave_quietly() -> None:
    """Keep Python from complaining at its end that nobody reads standard output any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)


def terminate_in_one_line() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that nothing half-written is left.

    Where they are ignored (nohup) they stay so. Training, which saves first, takes them over.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminated)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # A second one shall not come in the way of what is removed at the end.
    signal.signal(number, signal.SIG_IGN)
    say(INTERRUPTED)
    sys.exit(128 + number)


def interrupt_in_one_line() -> None:
    """Print one line instead of a traceback when Ctrl-C comes while modules are imported."""
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            say(INTERRUPTED)
            os._exit(STATUS_INTERRUPTED)
        usual(kind, error, trace)

    sys.excepthook = hook
