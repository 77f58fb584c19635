"""Files appear whole or not at all, and carry a checksum that reading verifies.

The checksum is SHA-256 over the whole file with the 64 digits of the checksum itself as zeros. It
stands inside the file, at a place that other programs pass over: the first key of a JSON object,
the comment of a zip archive (what `torch.save` writes), the metadata of safetensors. A file
copied elsewhere is therefore still verified. Files without one, as earlier versions wrote them, are
read as well; `is_sealed` tells which it is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from baselines.errors import UserError

ZEROS = b"0" * 64
HEX = frozenset(b"0123456789abcdef")
PARTIAL = re.compile(r"\..+\.(\d+)\.partial")
STALE_SECONDS = 3600
BLOCK = 1 << 20
# How a file system says that it has no locks.
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
START_OF_ZIP, END_OF_ZIP, END_RECORD = b"PK\x03\x04", b"PK\x05\x06", 22


class DamagedFileError(UserError):
    """A file's content is not what was written; the message names it and what to do."""


@dataclass(frozen=True)
class Seal:
    """Where a kind of file carries its checksum: 64 digits between `before` and `after`.

    `offset` is where `before` starts, counted from the start of the file; None puts the seal
    at the end.
    """

    before: bytes
    after: bytes
    offset: int | None = None

    @property
    def blank(self) -> bytes:
        """The seal before the checksum is known."""
        return self.before + ZEROS + self.after

    def place(self, size: int) -> int:
        """Where the digits start in a file of `size` bytes."""
        start = size - len(self.blank) if self.offset is None else self.offset
        return start + len(self.before)


JSON = Seal(b'{\n  "sha256": "', b'"', offset=0)
ZIP = Seal(b'"sha256": "', b'"}')
SAFETENSORS = Seal(b'{"__metadata__":{"sha256":"', b'"', offset=8)
SEALS = {".json": JSON, ".pt": ZIP, ".pth": ZIP, ".safetensors": SAFETENSORS}


class _Recording:
    """A file that remembers the first error of writing, which libraries may turn into another."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an `OSError` of the system, which knows a handle only, name `path`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], *, seal: Seal | None = None
) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then rename it.

    A reader, or a program killed at any moment, sees the old file or the new one, never a part.
    With `seal`, what `write` wrote contains `seal.blank` and receives its checksum there.

    Raises:
        OSError: naming `path`: the disk is full, the folder not writable, ...
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    recording = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w+b") as file:
            recording = _Recording(file)
            write(cast(IO[bytes], recording))
            if seal is not None:
                _fill_in(file, seal)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        cause = recording.error if recording and recording.error else error
        if isinstance(cause, OSError) and cause.errno is not None:
            named = cause.filename if cause.filename not in (None, str(temporary)) else str(path)
            raise OSError(cause.errno, cause.strerror, str(named)) from error
        raise
    finally:
        _remove(temporary)
    _flush_directory(path.parent)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Read a file of `directory` and write it again while no other process does so; others wait.

    The lock is the operating system's, on the folder itself, and ends with the process. Where the
    file system has none, nobody waits.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` whole or not at all."""
    write_atomic(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum as the first key, `sha256`."""
    rest = "," + json.dumps(content, indent=2)[1:] if content else "\n}"
    data = JSON.blank + rest.encode() + b"\n"
    write_atomic(path, lambda file: file.write(data), seal=JSON)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, verified if it carries a checksum, which is left out.

    Raises:
        UserError: the file is missing, damaged or no JSON object.
    """
    require_file(path)
    sealed = is_sealed(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UserError(f"{path}: not readable as JSON: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    if sealed:
        del content["sha256"]
    return content


def require_file(path: Path) -> None:
    """Refuse a path that is no regular file.

    Raises:
        UserError: saying whether it is missing or something else.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a file")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a regular file")


def is_sealed(path: Path) -> bool:
    """Whether the file carries a checksum; it is verified if it does.

    Raises:
        DamagedFileError: the content does not match the checksum.
    """
    seal = SEALS.get(path.suffix)
    if seal is None:
        return False
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        place = seal.place(size)
        file.seek(max(0, place - len(seal.before)))
        found = file.read(len(seal.blank))
        if _looks_like(seal, found):
            digits = found[len(seal.before) :][:64]
            intact = found == seal.before + digits + seal.after and _digest(file, place) == digits
        elif seal is ZIP and _is_zip_cut_short(file, size):
            intact = False
        else:
            return False
    if not intact:
        remedy = "restore it from a copy"
        if seal is JSON:
            remedy += ', or delete its line "sha256" if the change is meant'
        raise DamagedFileError(
            f"{path}: damaged, or changed after it was written: its content does not match its "
            f"checksum; {remedy}"
        )
    return True


def _looks_like(seal: Seal, found: bytes) -> bool:
    """Whether `found` is a seal, possibly damaged: a flipped byte must not unseal a file."""
    if len(found) < len(seal.blank):
        return False
    first, last = len(seal.before), len(seal.before) + 64
    fixed = found[:first] + found[last:]
    expected = seal.before + seal.after
    right = sum(a == b for a, b in zip(fixed, expected, strict=True))
    digits = sum(byte in HEX for byte in found[first:last])
    return right + digits >= 0.9 * len(seal.blank)


def _is_zip_cut_short(file: IO[bytes], size: int) -> bool:
    """Whether a file starts as a zip archive and does not end where its last record says."""
    file.seek(0)
    if file.read(4) != START_OF_ZIP:
        return False
    comment = zip_comment(file)
    return comment is None or file.tell() != size


def zip_comment(file: IO[bytes]) -> bytes | None:
    """The comment of a zip archive, and the position at its end; None if its end is missing."""
    size = file.seek(0, os.SEEK_END)
    first = max(0, size - END_RECORD - 65535)
    file.seek(first)
    tail = file.read()
    found = tail.rfind(END_OF_ZIP)
    if found < 0 or len(tail) < found + END_RECORD:
        return None
    file.seek(first + found + END_RECORD)
    length = int.from_bytes(tail[found + 20 : found + 22], "little")
    comment = file.read(length)
    return comment if len(comment) == length else None


def _fill_in(file: IO[bytes], seal: Seal) -> None:
    """Put the checksum of a file whose digits are still zeros in their place."""
    file.flush()
    size = file.seek(0, os.SEEK_END)
    place = seal.place(size)
    digest = _digest(file, place)
    file.seek(place)
    file.write(digest)


def _digest(file: IO[bytes], place: int) -> bytes:
    """SHA-256 of the file with zeros for the 64 digits at `place`, in hexadecimal."""
    digest = hashlib.sha256()
    file.seek(0)
    left = place
    while left > 0 and (block := file.read(min(BLOCK, left))):
        digest.update(block)
        left -= len(block)
    digest.update(ZEROS)
    file.seek(place + 64)
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest().encode()


def sweep(directory: Path) -> list[Path]:
    """Remove what writers that were killed left behind, also in folders below; returns the paths.

    A temporary file stays while the process that is filling it may still be alive.
    """
    swept = []
    for path in directory.rglob(".*.partial"):
        match = PARTIAL.fullmatch(path.name)
        if match and _is_stale(path, int(match[1])):
            _remove(path)
            swept.append(path)
    return swept


def _is_stale(path: Path, pid: int) -> bool:
    # In a container every start has the same pid: nobody sweeps while writing, so it is another's.
    if pid == os.getpid() or not is_alive(pid):
        return True
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has the number `pid`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # A folder that is no folder, or not writable: writing there has failed with its own error.
        return


def _flush_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with naming(directory):
            os.fsync(handle)
    finally:
        os.close(handle)
