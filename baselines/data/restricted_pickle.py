"""Reads pickles of plain data without giving them anything to call."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from baselines.data.pickle_scan import MAX_DEPTH, UnsafePickleError, check_opcodes
from baselines.data.reading import quoted, read_bytes
from baselines.data.source import DataError

_PLAIN_DTYPE = re.compile(r"[<>=|]?[biufcSU]\d{0,6}")
_PLAIN = {type(None), str, bytes, bool, int, float, complex}
_ALLOWED = "lists, dicts, tuples, strings, bytes, numbers and numpy arrays of these"
# No captions.pickle comes near it.
_MAX_BYTES = 2**28


class _Budget:
    """How many bytes the functions that a pickle calls may still make.

    What they make is made of what the file holds, so a few times its length is enough; a file that
    wants the same megabyte thousands of times is out to fill the memory.
    """

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left = 4 * length + 4096

    def take(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise UnsafePickleError("makes far more data than it holds")


class _Maker:
    """What a pickle gets in place of a global: callable, and immune to being given a state."""

    __slots__ = ("_budget", "_make")

    def __init__(self, make: Callable[..., Any], budget: _Budget) -> None:
        self._make, self._budget = make, budget

    def __call__(self, *args: Any) -> Any:
        return self._make(self._budget, *args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise UnsafePickleError("tries to change a function of the reader")


class _Dtype:
    """Stands for numpy.dtype while reading: a plain type code and a byte order, nothing else."""

    __slots__ = ("dtype",)

    def __init__(self, budget: _Budget, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise UnsafePickleError(
                f"holds a numpy array of type {quoted(code)}, not of plain numbers"
            )
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a numpy array while reading; `array` is its value once the state has come."""

    __slots__ = ("array", "budget")

    def __init__(self, budget: _Budget, *_: Any) -> None:
        self.array, self.budget = np.zeros(0), budget

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _from_bytes(self.budget, content, dtype, shape, "F" if fortran else "C")


def _from_bytes(
    budget: _Budget, content: Any, dtype: Any, shape: Any, order: Literal["C", "F"] = "C"
) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise UnsafePickleError("holds a numpy array without a plain type")
    data = _as_bytes(content)
    budget.take(len(data))
    if not isinstance(shape, tuple) or not all(type(side) is int for side in shape):
        raise UnsafePickleError(f"holds a numpy array of shape {quoted(shape)}")
    array: np.ndarray = np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy()
    return array


def _as_bytes(content: Any) -> bytes:
    # Python 2 wrote its raw bytes as str, which the latin1 encoding maps one to one.
    if isinstance(content, str):
        return content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise UnsafePickleError(f"holds a numpy array made of {type(content).__name__} objects")
    return bytes(content)


def _encode(budget: _Budget, text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"asks for the codec {quoted(encoding)}")
    budget.take(len(text))
    return text.encode("latin1")


def _empty_bytes(budget: _Budget) -> bytes:
    return b""


def _complex(budget: _Budget, real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _scalar(budget: _Budget, dtype: Any, content: Any = b"") -> Any:
    return _from_bytes(budget, content, dtype, ())[()]


def _buffer(
    budget: _Budget, content: Any, dtype: Any, shape: Any, order: Literal["C", "F"] = "C"
) -> Any:
    array = _Array(budget)
    array.array = _from_bytes(budget, content, dtype, shape, order)
    return array


def _refuse(budget: _Budget, *_: Any) -> NoReturn:
    raise UnsafePickleError("calls numpy.ndarray itself")


# numpy 2 renamed numpy.core to numpy._core; Python 2 knew the codecs module by the same name.
_NUMPY: dict[str, Callable[..., Any]] = {
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
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.budget = _Budget(len(content))

    def find_class(self, module: str, name: str) -> Any:
        make = _GLOBALS.get(f"{module}.{name}")
        if make is None:
            raise UnsafePickleError(f"asks for {quoted(f'{module}.{name}')[1:-1]}")
        return _Maker(make, self.budget)


def _finish(value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """The same value with arrays for their stand-ins; refuses what is not data.

    `done` maps the id of a container to its result: what a pickle refers to many times is
    visited once, or a small file could keep the reader busy forever.
    """
    if depth > MAX_DEPTH:
        raise UnsafePickleError(f"is nested deeper than {MAX_DEPTH} levels")
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

    The opcodes are looked through before anything is built. Every global a pickle asks for is
    looked up in a list of numpy's and replaced by a function of ours, so nothing named in the file
    is imported or called. Python 2's `str` comes as `str` (latin1).

    Raises:
        UnsafePickleError: the file asks for anything but plain data; names what.
        DataError: the file is missing, cut short or no pickle.
    """
    path = Path(path)
    content = read_bytes(path, _MAX_BYTES)
    try:
        check_opcodes(content)
        return _finish(_Unpickler(content).load(), {})
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} {error}: refused, and nothing of it was run. Only {_ALLOWED} are read; "
            "get the file from its publisher again or write its content as plain lists"
        ) from None
    except Exception as error:
        # A damaged pickle can fail in any way: unknown opcode, empty stack, bad text, short data.
        raise DataError(
            f"{path} is not a readable pickle ({type(error).__name__}: "
            f"{quoted(str(error))[1:-1]}): copy or download it again"
        ) from error
