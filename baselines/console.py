"""Standard streams that may be closed, and Ctrl-C before a command has begun."""

from __future__ import annotations

import os
import sys
from types import TracebackType

INTERRUPTED = "interrupted"
STATUS_INTERRUPTED = 130


def guard_streams() -> None:
    """Put the null device where a standard stream is closed (`2>&-`).

    Otherwise the next file that is opened takes its number, and messages end up in a checkpoint.
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


def say(message: str) -> None:
    """One line on standard error, if anybody listens."""
    try:
        print(message, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def leave_quietly() -> None:
    """Keep Python from complaining at its end that nobody reads standard output any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)


def interrupt_in_one_line() -> None:
    """Print one line instead of a traceback when Ctrl-C comes while modules are imported."""
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            say(INTERRUPTED)
            os._exit(STATUS_INTERRUPTED)
        usual(kind, error, trace)

    sys.excepthook = hook
