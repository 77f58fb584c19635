"""One run directory, one training: a lock that ends with its owner and names it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from baselines import files
from baselines.errors import UserError

logger = logging.getLogger(__name__)
LOCK = ".lock"


class RunInUseError(UserError):
    """Another training works in the run directory; the message names it."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep every other training out of `run_dir`, which is made if need be.

    The lock is the operating system's on `.lock` and ends with the process, however it ends; the
    file says who holds it. What killed trainings left half-written is removed. A directory that
    was made for nothing is removed again.

    Raises:
        RunInUseError: naming the process, its machine and since when it runs.
        OSError: naming the file: the disk is full, the folder not writable, ...
    """
    made = _make(run_dir)
    path = run_dir / LOCK
    handle = _acquire(path)
    try:
        owner = _read_owner(handle)
        if owner:
            logger.info("%s: its last training (%s) ended without closing it", run_dir, owner)
        for left in files.sweep(run_dir):
            logger.info("%s: removed, left half-written", left)
        with files.naming(path):
            _write_owner(handle, _myself())
        yield
    finally:
        os.ftruncate(handle, 0)
        if made and os.listdir(run_dir) == [LOCK]:
            path.unlink()
            for folder in made:
                folder.rmdir()
        _inherited.discard(handle)
        _unlock(handle)


def _make(run_dir: Path) -> list[Path]:
    """Create the directory; returns the folders that were not there, innermost first."""
    missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    run_dir.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read_owner(handle) or "another process"
            os.close(handle)
            raise RunInUseError(
                f"{path.parent}: in use by {owner}; wait for it, stop it, or choose another "
                "--run-dir"
            ) from None
        except OSError as error:
            if error.errno not in files.WITHOUT_LOCKS:
                os.close(handle)
                raise
            logger.warning("%s: this file system has no locks; start only one training", path)
        # Whoever held it before may have removed the file between opening and locking it.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            _inherited.add(handle)
            return handle
        os.close(handle)


def owner_of(run_dir: Path) -> str:
    """Who trains in `run_dir` now; "" for nobody."""
    try:
        handle = os.open(run_dir / LOCK, os.O_RDWR)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(handle)
    except OSError:
        return ""
    else:
        return ""
    finally:
        os.close(handle)


def _unlock(handle: int) -> None:
    """Release the lock also for a child that has not yet closed its copy of the handle."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _myself() -> str:
    since = datetime.now().isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


def _read_owner(handle: int) -> str:
    try:
        return str(json.loads(os.pread(handle, 4096, 0))["owner"])
    except (ValueError, KeyError, TypeError):
        return ""


def _write_owner(handle: int, owner: str) -> None:
    os.ftruncate(handle, 0)
    content = json.dumps({"owner": owner}).encode() + b"\n"
    written = 0
    while written < len(content):  # a disk that is almost full takes a part without complaint
        written += os.pwrite(handle, content[written:], written)


_inherited: set[int] = set()


def _close_in_child() -> None:
    """A forked data worker must not keep the lock when the training dies before it."""
    for handle in _inherited:
        os.close(handle)
    _inherited.clear()


os.register_at_fork(after_in_child=_close_in_child)
