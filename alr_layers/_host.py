"""What a host's `decode` holds: its networks, how it is copied, whether it can be pickled.

`decode` may be a network, a method, a partial or a function; a function holds networks in its
closure, its defaults or the globals and attributes that its code names.
"""

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn


def networks_in(value: Any, names: frozenset[str] = frozenset()) -> tuple[nn.Module, ...]:
    """Every network that calling `value` can reach, as far as that can be told; each once.

    `names` are the attributes that the caller looks up in plain objects.
    """
    return tuple({id(module): module for module in _reach(value, names, set())}.values())


def _reach(value: Any, names: frozenset[str], seen: set[int]) -> Iterator[nn.Module]:
    """Networks in `value`; of a plain object only what attributes in `names` hold."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _reach(part, names, seen)
    elif isinstance(value, types.MethodType):
        yield from _reach(value.__func__, names, seen)
        yield from _reach(value.__self__, names | _names(value.__func__), seen)
    elif isinstance(value, types.FunctionType):
        if not value.__module__ or not value.__module__.startswith("torch."):
            for part in _held(value).values():
                yield from _reach(part, names | _names(value), seen)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _reach(part, names, seen)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            yield from _reach(part, names, seen)
    elif not isinstance(value, (type, types.ModuleType)):
        methods, names = _methods(value, names)
        for method in methods:
            yield from _reach(method, names, seen)
        for name, part in getattr(value, "__dict__", {}).items():
            if name in names:
                yield from _reach(part, names, seen)


def _methods(value: Any, names: frozenset[str]) -> tuple[list[Any], frozenset[str]]:
    """Functions of a plain object's class that `names` or they themselves name, and all names."""
    found: dict[str, Any] = {}
    while True:
        space = {name: part for kind in type(value).__mro__ for name, part in vars(kind).items()}
        new = {
            name: space[name]
            for name in names & space.keys() - found.keys()
            if isinstance(space[name], types.FunctionType)
        }
        if not new:
            return list(found.values()), names
        found |= new
        names = names.union(*map(_names, new.values()))


def _names(function: Any) -> frozenset[str]:
    """The globals and attributes that a function's code names, inner functions included."""
    codes, found = [getattr(function, "__code__", None)], set()
    while codes:
        code = codes.pop()
        if isinstance(code, types.CodeType):
            found |= set(code.co_names)
            codes += code.co_consts
    return frozenset(found)


def _held(function: types.FunctionType) -> dict[str, Any]:
    """What a function finds when it runs: globals it names, its closure, its defaults."""
    held = {name: function.__globals__[name] for name in _globals_named(function)}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not _is_empty(cell):
            held[name] = cell.cell_contents
    held |= {f"default {index}": value for index, value in enumerate(function.__defaults__ or ())}
    return held | (function.__kwdefaults__ or {}) | {"wrapped": vars(function).get("__wrapped__")}


def _is_empty(cell: types.CellType) -> bool:
    """Whether the variable of a closure is not assigned yet."""
    return cell == types.CellType()


def _globals_named(function: types.FunctionType) -> set[str]:
    return set(_names(function) & function.__globals__.keys())


def twin_of(value: Any, memo: dict[int, Any], names: frozenset[str] = frozenset()) -> Any:
    """A deep copy of `decode` that decodes with the copies of its networks.

    `copy.deepcopy` hands out a function itself, which would go on with the original networks.
    """
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, functools.partial):
        args = [twin_of(part, memo, names) for part in value.args]
        keywords = {name: twin_of(part, memo, names) for name, part in value.keywords.items()}
        return functools.partial(twin_of(value.func, memo, names), *args, **keywords)
    if not networks_in(value, names):
        return value
    if not isinstance(value, types.FunctionType):
        return copy.deepcopy(value, memo)
    if "__wrapped__" in vars(value):
        raise TypeError(
            f"decode is {value.__qualname__}, a function around another one, which cannot be"
            " copied with its networks; make it a method of the host"
        )
    return _twin_function(value, memo, names | _names(value))


def _twin_function(
    function: types.FunctionType, memo: dict[int, Any], names: frozenset[str]
) -> types.FunctionType:
    """The same code with copies of the networks in its globals, closure and defaults."""
    closure = function.__closure__
    cells = None if closure is None else tuple(types.CellType() for _ in closure)
    space = function.__globals__
    held = [name for name in _globals_named(function) if networks_in(space[name], names)]
    if held:
        space = {**space}
    twin = types.FunctionType(function.__code__, space, function.__name__, None, cells)
    memo[id(function)] = twin
    for name in held:
        space[name] = twin_of(space[name], memo, names)
    for cell, original in zip(cells or (), closure or (), strict=True):
        if not _is_empty(original):
            cell.cell_contents = twin_of(original.cell_contents, memo, names)
    if function.__defaults__ is not None:
        twin.__defaults__ = tuple(twin_of(part, memo, names) for part in function.__defaults__)
    if function.__kwdefaults__ is not None:
        defaults = function.__kwdefaults__.items()
        twin.__kwdefaults__ = {name: twin_of(part, memo, names) for name, part in defaults}
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    return twin


def check_pickling(decode: Callable[..., Any]) -> None:
    """Refuse a `decode` that would not come back tied to the networks pickled with it.

    Raises:
        TypeError: a local function, which pickle cannot store, or one that finds its networks among
            the globals, which pickle leaves behind.
    """
    function = decode.func if isinstance(decode, functools.partial) else decode
    if not isinstance(function, types.FunctionType):
        return
    local = "<" in function.__qualname__
    if local or networks_in(function):
        reason = "a local one" if local else "one that finds its networks among the globals"
        raise TypeError(
            f"decode is the function {function.__qualname__}, {reason}: pickled, it would not stay"
            " tied to the host. Save refinement.state_dict() instead, or make decode a method of"
            " the host or functools.partial(function, network) of a function at module level"
        )
