"""Reads pickles of plain data without giving them anything to call."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from baselines.data.source import DataError

_PLAIN_DTYPE = re.compile(r"[<>=|]?[biufcSU]\d*")
_MAX_DEPTH = 100
_PLAIN = {type(None), str, bytes, bool, int, float, complex}
_ALLOWED = "lists, dicts, tuples, strings, bytes, numbers and numpy arrays of these"


class UnsafePickleError(DataError):
    """A pickle asks for something else than plain data; nothing of it was run."""


class _Maker:
    """What a pickle gets in place of a global: callable, and immune to being given a state."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise UnsafePickleError("tries to change a function of the reader")


class _Dtype:
    """Stands for numpy.dtype while reading: a plain type code and a byte order, nothing else."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise UnsafePickleError(f"holds a numpy array of type {code!r}, not of plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a numpy array while reading; `array` is its value once the state has come."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _from_bytes(content, dtype, shape, "F" if fortran else "C")


def _from_bytes(content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise UnsafePickleError("holds a numpy array without a plain type")
    data = _as_bytes(content)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy()


def _as_bytes(content: Any) -> bytes:
    # Python 2 wrote its raw bytes as str, which the latin1 encoding maps one to one.
    if isinstance(content, str):
        return content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise UnsafePickleError(f"holds a numpy array made of {type(content).__name__} objects")
    return bytes(content)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"asks for the codec {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


def _complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _scalar(dtype: Any, content: Any = b"") -> Any:
    return _from_bytes(content, dtype, ())[()]


def _buffer(content: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    array = _Array()
    array.array = _from_bytes(content, dtype, shape, order)
    return array


def _refuse(*_: Any) -> NoReturn:
    raise UnsafePickleError("calls numpy.ndarray itself")


# numpy 2 renamed numpy.core to numpy._core; Python 2 knew the codecs module by the same name.
_NUMPY = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _buffer,
}
_GLOBALS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _refuse,
    "_codecs.encode": _encode,
    **{f"{module}.bytes": _empty_bytes for module in ("builtins", "__builtin__")},
    **{f"{module}.complex": _complex for module in ("builtins", "__builtin__")},
    **{
        f"{package}.{name}": make
        for package in ("numpy.core", "numpy._core")
        for name, make in _NUMPY.items()
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        make = _GLOBALS.get(f"{module}.{name}")
        if make is None:
            raise UnsafePickleError(f"asks for {module}.{name}")
        return _Maker(make)


def _finish(value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """The same value with arrays for their stand-ins; refuses what is not data.

    `done` maps the id of a container to its result: what a pickle refers to many times is
    visited once, or a small file could keep the reader busy forever.
    """
    if depth > _MAX_DEPTH:
        raise UnsafePickleError(f"is nested deeper than {_MAX_DEPTH} levels")
    kind = type(value)
    if kind in _PLAIN or isinstance(value, np.generic):
        return value
    if kind is _Array:
        return value.array
    if kind in (_Maker, _Dtype):
        raise UnsafePickleError("holds a function or a type as if it were data")
    if kind not in (list, tuple, dict):
        raise UnsafePickleError(f"holds a {kind.__name__}")
    if id(value) not in done:
        entries = (*value, *value.values()) if kind is dict else value
        if set(map(type, entries)) <= _PLAIN:
            result = value
        elif kind is dict:
            finished = [_finish(entry, done, depth + 1) for entry in entries]
            half = len(value)
            result = dict(zip(finished[:half], finished[half:], strict=True))
        else:
            result = kind(_finish(entry, done, depth + 1) for entry in entries)
        done[id(value)] = result
    return done[id(value)]


def load_pickle(path: str | Path) -> Any:
    """The content of a pickle of plain data, of any protocol, Python 2's included.

    Every global a pickle asks for is looked up in a list of numpy's and replaced by a function of
    ours, so nothing named in the file is imported or called. Python 2's `str` comes as `str`
    (latin1).

    Raises:
        UnsafePickleError: the file asks for anything but plain data; names what.
        DataError: the file is missing, cut short or no pickle.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return _finish(_Unpickler(io.BytesIO(content), encoding="latin1").load(), {})
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} {error}: refused, and nothing of it was run. Only {_ALLOWED} are read; "
            "get the file from its publisher again or write its content as plain lists"
        ) from None
    except Exception as error:
        # A damaged pickle can fail in any way: unknown opcode, empty stack, bad text, short data.
        raise DataError(
            f"{path} is not a readable pickle ({type(error).__name__}: {error}): "
            "copy or download it again"
        ) from error
