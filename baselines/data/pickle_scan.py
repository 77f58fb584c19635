"""Looks at the opcodes of a pickle before anything is built from them.

A few hundred bytes of pickle can keep its reader busy for ever, crash it or fill its memory without
calling anything: tuples of tuples as dictionary keys, integers that all hash alike, a memo with a
huge index, nesting without end. Each of these shows in the opcodes, which are walked here with a
stack that holds only what kind of value would be where.
"""

from __future__ import annotations

import pickle
import pickletools
import re

from baselines.data.reading import quoted
from baselines.data.source import DataError

MAX_DEPTH = 100
MAX_CONTAINERS = 10_000_000
KEY_LIMIT = 2**32

# What the walk knows of a value: that it may be a dictionary's key (str, or an int so small that
# hashes do not collide), that it is something else without parts, or how deep it is nested (1 ...).
_KEY, _LEAF = -1, 0
# The class of mappings that keep their order, and the empty tuple, all that it may be called with.
_ORDERED, _NOTHING = -2, -3

_BY_CODE = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_BY_NAME = {opcode.name: opcode for opcode in pickletools.opcodes}
# How many bytes of length stand before an argument of variable width.
_PREFIX = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_KEYS = {
    "BININT", "BININT1", "BININT2", "BINSTRING", "SHORT_BINSTRING",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_TEXT_KEYS = {"STRING", "UNICODE"}
_CONTAINERS = {"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
               "LIST", "DICT"}  # fmt: skip
_FILLS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS"}
_PAIRS = {"SETITEM", "SETITEMS", "DICT"}
# Opcodes that do nothing but push a value of known width: (bytes of length, width, value).
_PUSHES = {
    code: (
        _PREFIX.get(opcode.arg.n, 0),
        max(opcode.arg.n, 0),
        _KEY if opcode.name in _KEYS else _LEAF,
    )
    for code, opcode in _BY_CODE.items()
    if opcode.arg is not None
    and opcode.arg.n != pickletools.UP_TO_NEWLINE
    and not opcode.stack_before
    and opcode.stack_after
    and opcode.name not in ("BINGET", "LONG_BINGET", "LONG1")
}


class UnsafePickleError(DataError):
    """A pickle asks for something else than plain data; nothing of it was run."""


def check_opcodes(content: bytes, allowed: re.Pattern[str] | None = None) -> None:
    """Walk a pickle up to its end without building anything.

    Args:
        content: the pickle.
        allowed: what it may name, as "module.name"; None leaves that to whoever reads it.

    Raises:
        UnsafePickleError: it is nested deeper than `MAX_DEPTH`, has sets, keys that are neither
            strings nor integers below `KEY_LIMIT`, more than `MAX_CONTAINERS` containers, a memo
            index beyond its own length, or names what is not `allowed`.
        pickle.UnpicklingError: it is cut short or no pickle.
    """
    walk = _Walk(content, allowed)
    position = 0
    while position < len(content):
        code = content[position]
        position += 1
        if code in _PUSHES:
            prefix, width, value = _PUSHES[code]
            if prefix:
                width = int.from_bytes(content[position : position + prefix], "little")
            position += prefix + width
            walk.stack.append(value)
        elif code in _BY_CODE:
            name = _BY_CODE[code].name
            argument, position = walk.argument(_BY_CODE[code], position)
            if position <= len(content):
                walk.step(name, argument)
            if name == "STOP":
                return
        else:
            raise pickle.UnpicklingError(f"byte {position - 1} is {code:#04x}, no opcode")
    raise pickle.UnpicklingError("it is cut short")


class _Walk:
    """The stack, its marks and the memo of a pickle, with kinds in place of values."""

    def __init__(self, content: bytes, allowed: re.Pattern[str] | None) -> None:
        self.content, self.allowed = content, allowed
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}
        self.containers = 0

    def argument(self, opcode: pickletools.OpcodeInfo, position: int) -> tuple[bytes, int]:
        """The bytes of an argument and where the next opcode is."""
        if opcode.arg is None:
            return b"", position
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            end = position
            for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1):
                end = self.content.find(b"\n", end) + 1
                if not end:
                    return b"", len(self.content) + 1
            return self.content[position : end - 1], end
        start = position + _PREFIX.get(opcode.arg.n, 0)
        width = opcode.arg.n
        if start > position:
            width = int.from_bytes(self.content[position:start], "little")
        return self.content[start : start + width], start + width

    def step(self, name: str, argument: bytes) -> None:
        """Do to the kinds what the opcode would do to the values."""
        if name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memoize(name, argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._recall(_index(name, argument)))
        elif name in ("INT", "LONG", "LONG1"):
            self.stack.append(_KEY if _small(name, argument) else _LEAF)
        elif name in _TEXT_KEYS:
            self.stack.append(_KEY)
        elif name == "DUP":
            self.stack += [self._top()] * 2
        elif name == "POP" and self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        elif name in ("EMPTY_SET", "FROZENSET"):
            raise UnsafePickleError("holds a set")
        elif name == "EMPTY_TUPLE":
            self.stack.append(_NOTHING)
        elif name == "GLOBAL":
            self.stack.append(self._named(argument))
        elif name in ("INST", "STACK_GLOBAL") and self.allowed is not None:
            raise UnsafePickleError("asks for what it does not name in plain text")
        else:
            self._build(name)

    def _build(self, name: str) -> None:
        """What takes values off the stack and leaves what is made of them."""
        opcode = _BY_NAME[name]
        before = [part.name for part in opcode.stack_before]
        parts: list[int] = []
        if "mark" in before:
            if not self.marks:
                raise pickle.UnpicklingError("a mark is missing")
            start = self.marks.pop()
            parts = self.stack[start:]
            del self.stack[start:]
            before = before[: before.index("mark")]
        parts = [self._top() for _ in before][::-1] + parts
        if name in ("REDUCE", "NEWOBJ") and parts[0] == _ORDERED and parts[1] != _NOTHING:
            raise UnsafePickleError("makes a mapping of other things than keys and values in turn")
        if name in _PAIRS:
            keys = parts[1::2] if name in _FILLS else parts[::2]
            if any(key != _KEY for key in keys):
                raise UnsafePickleError(
                    f"has keys that are neither strings nor integers below {KEY_LIMIT}"
                )
        if name in _CONTAINERS or name in _FILLS:
            own = max(_depth(parts[0]), 1) if name in _FILLS else 1
            inner = parts[1:] if name in _FILLS else parts
            self.stack.append(max([own, *(_depth(part) + 1 for part in inner)]))
            self._limit(name)
        else:
            self.stack += [_LEAF] * len(opcode.stack_after)

    def _named(self, argument: bytes) -> int:
        name = ".".join(argument.decode("utf-8", "replace").split("\n"))
        if self.allowed is not None and not self.allowed.fullmatch(name):
            raise UnsafePickleError(f"asks for {quoted(name)}")
        return _ORDERED if name == "collections.OrderedDict" else _LEAF

    def _limit(self, name: str) -> None:
        if self.stack[-1] > MAX_DEPTH:
            raise UnsafePickleError(f"is nested deeper than {MAX_DEPTH} levels")
        self.containers += name in _CONTAINERS
        if self.containers > MAX_CONTAINERS:
            raise UnsafePickleError(f"has more than {MAX_CONTAINERS} lists and the like")

    def _top(self) -> int:
        if not self.stack:
            raise pickle.UnpicklingError("its stack runs empty")
        return self.stack.pop()

    def _memoize(self, name: str, argument: bytes) -> None:
        index = len(self.memo) if name == "MEMOIZE" else _index(name, argument)
        if index > len(self.content):
            raise UnsafePickleError(f"has only {len(self.content)} bytes and a memo of {index}")
        if not self.stack:
            raise pickle.UnpicklingError("its stack runs empty")
        self.memo[index] = self.stack[-1]

    def _recall(self, index: int) -> int:
        if index not in self.memo:
            raise pickle.UnpicklingError(f"memo {index} is empty")
        return self.memo[index]


def _depth(kind: int) -> int:
    return 1 if kind == _NOTHING else max(kind, 0)


def _index(name: str, argument: bytes) -> int:
    return int(argument) if name in ("PUT", "GET") else int.from_bytes(argument, "little")


def _small(name: str, argument: bytes) -> bool:
    """Whether an integer of arbitrary length may be a key."""
    if name == "LONG1":
        return abs(int.from_bytes(argument[:8], "little", signed=True)) < KEY_LIMIT and (
            len(argument) <= 8
        )
    text = argument.rstrip(b"L")
    return len(text) <= 12 and abs(int(text)) < KEY_LIMIT
