"""Reads files of unknown origin: regular ones only, of bounded size, with errors that name them."""

from __future__ import annotations

import json
import os
import reprlib
import stat
from pathlib import Path
from typing import Any

from baselines.data.source import DataError

# Ten times what the captions of MS-COCO take; a list of images is no place for more.
MAX_BYTES = 2**30

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


def quoted(value: Any) -> str:
    """Show a value in an error message: in one line, short, however large or nested it is.

    >>> quoted({"name": [[[["deep"]]]], "number": 3})
    "{'name': [[[...]]], 'number': 3}"
    """
    try:
        return " ".join(_SHORT.repr(value).split())
    except Exception:
        # Python refuses to print integers of thousands of digits.
        return f"a {type(value).__name__}"


def require_regular(path: Path) -> None:
    """Refuse what is no file: reading a pipe or a device may wait or go on for ever.

    Raises:
        OSError: the file is missing or no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is no regular file, but a folder, pipe or device")


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        DataError: missing, unreadable, no regular file or too large.
    """
    try:
        require_regular(path)
        size = path.stat().st_size
        if size <= limit:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}") from error
    raise DataError(
        f"{path} has {size:,} bytes, more than {limit:,}: it is not the file expected here"
    )


def read_at(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file.

    Raises:
        OSError: the file is missing or shorter than it was.
    """
    with open(path, "rb", buffering=0) as file:
        content = os.pread(file.fileno(), size, offset)
    if len(content) != size:
        raise OSError(f"it ends before byte {offset + size}")
    return content


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, with or without a byte order mark.

    Raises:
        DataError: cannot be read, or is not UTF-8 (names the byte).
    """
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}): save it as UTF-8"
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file without their ends; only line feeds end a line."""
    # str.splitlines would also cut at U+2028 and U+0085, which captions may contain.
    return read_text(path).split("\n")


def is_text(text: str) -> bool:
    r"""Whether no half of a surrogate pair stands in `text`: it could be neither drawn nor saved.

    >>> is_text("r\u00e9d"), is_text("\ud800")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: no JSON, or nested so deeply or with numbers so long that nobody means it, or
            with strings that are no text.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON ({error.msg}, line {error.lineno}, column {error.colno})"
        ) from error
    except RecursionError as error:
        raise DataError("nested too deeply") from error
    except ValueError as error:
        raise DataError(f"not usable JSON ({error})") from error
    # Only an escape can bring a surrogate into what was read as UTF-8.
    if "\\u" in text and not is_text(json.dumps(value, ensure_ascii=False)):
        raise DataError("half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return value


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
