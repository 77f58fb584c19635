"""What every data worker does first."""

from __future__ import annotations

import os


def shield(number: int) -> None:
    """Take worker `number` out of the group of processes that the terminal signals.

    Ctrl-C, a closed terminal and `kill` of the whole group then reach the main process only, which
    finishes its step and saves. The worker ends when the main process does.
    """
    os.setpgid(0, 0)
