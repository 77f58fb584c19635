"""Logs of one JSON object a line, which grow line by line and survive being cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from baselines import files
from baselines.errors import UserError

Entry = dict[str, Any]


def read_lines(path: Path, holds: Callable[[Entry], bool] = lambda entry: True) -> list[Entry]:
    """All entries of a log, none where there is no file; a last line cut short is passed over.

    Args:
        path: of the log.
        holds: what is true of every entry.

    Raises:
        UserError: another line is no such entry, or `path` no regular file; names it.
    """
    if not path.exists():
        return []
    files.require_file(path)
    # Not str.splitlines, which would also cut at U+2028 within a string.
    *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        entry = _entry(line, holds)
        if entry is not None:
            found.append(entry)
        elif line:
            raise UserError(f"{path}: line {number} is damaged; delete it to go on without it")
    whole = _entry(last, holds)
    return found if whole is None else [*found, whole]


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a log of these entries, whole or not at all."""
    files.write_bytes(path, b"".join(map(_line, entries)))


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry; what a kill or a full disk left of the last line goes.

    Raises:
        OSError: naming `path`.
    """
    with files.naming(path), open(path, "ab+") as file:
        _end_line(file)
        file.write(_line(entry))


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _end_line(file: IO[bytes]) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read() == b"\n":
        return
    file.seek(0)
    before, newline, last = file.read().rpartition(b"\n")
    if _entry(last.decode(errors="replace")) is None:
        file.truncate(len(before + newline))
    else:
        file.write(b"\n")


def _entry(line: str, holds: Callable[[Entry], bool] = lambda entry: True) -> Entry | None:
    try:
        entry = json.loads(line)
        return entry if isinstance(entry, dict) and holds(entry) else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
