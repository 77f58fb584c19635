"""Settings as fields of frozen dataclasses: default, rule, meaning and resume beside one another.

`config.py` declares the settings with what is here; reading, overriding, checking, `--help` and
the comparison on resume all follow from the declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from baselines.errors import UserError

T = TypeVar("T")


class ConfigError(UserError):
    """A setting's name or value that does not fit; the message names it and the remedy."""


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy.

    holds: tells whether a value does.
    expected: completes "key=value: expected ..." when it does not.
    from_registry: whether the answer lies in a list of what the project has been extended with.
        Those lists are built from presets, so a preset cannot be checked against them.
    """

    holds: Callable[[Any], bool]
    expected: Callable[[], str]
    from_registry: bool = False


def rule(holds: Callable[[Any], bool], expected: str) -> Rule:
    """A rule in words: `expected` completes "key=value: expected ..."."""
    return Rule(holds, lambda: expected)


def at_least(lowest: int) -> Rule:
    """Values of `lowest` or more."""
    return rule(lambda value: value >= lowest, f"{lowest} or more")


def above(lowest: int) -> Rule:
    """Values greater than `lowest`."""
    return rule(lambda value: value > lowest, f"a number above {lowest}")


def rate() -> Rule:
    """Learning rates and factors on them; Adam itself fails at a rate beyond float32."""
    return rule(lambda value: 0 < value <= 1, "a number above 0, at most 1")


def between(lowest: int, highest: int) -> Rule:
    """Values from `lowest` to `highest`, both included."""
    return rule(
        lambda value: lowest <= value <= highest, f"a number between {lowest} and {highest}"
    )


def one_of(*names: str) -> Rule:
    """One of the `names`."""
    return rule(lambda value: value in names, "one of " + ", ".join(map(repr, names)))


def registered(place: str) -> Rule:
    """A name in the registry at "module:NAME", which is imported when it is asked."""
    module, _, name = place.partition(":")

    def names() -> Iterable[str]:
        found: Iterable[str] = getattr(import_module(module), name)
        return found

    return Rule(
        lambda value: value in names(),
        lambda: "one of " + ", ".join(map(repr, names())),
        from_registry=True,
    )


def setting(
    default: Any,
    help: str,
    rule: Rule | None = None,
    *,
    resume: bool = False,
    only: str = "",
) -> Any:
    """Declare a field of a group.

    Args:
        default: what it is where no preset and no user says otherwise.
        help: its meaning, for `--help`.
        rule: what its values must satisfy.
        resume: whether a run may go on with another value.
        only: the one command that reads it; "" for all that have settings. A group is declared
            with `dataclasses.field`; "only" in its metadata holds for all that is in it.
    """
    metadata = {"help": help, "rule": rule, "resume": resume, "only": only}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting of a tree of groups: `key` is its dotted path, the rest as declared."""

    key: str
    kind: type
    default: Any
    help: str
    rule: Rule | None
    resume: bool
    only: str

    def checked(self, value: Any, *, registries: bool = True) -> Any:
        """`value` if it may stand here; an int is accepted where a float is expected.

        Raises:
            ConfigError: another type, not finite, or against the rule.
        """
        if self.kind is float and type(value) is int:
            value = float(value)
        shown = f"{self.key}={reprlib.repr(value)}"
        if type(value) is not self.kind:
            got = type(value).__name__
            raise ConfigError(f"{shown}: expected {self.kind.__name__}, got {got}")
        if type(value) is float and not math.isfinite(value):
            raise ConfigError(f"{shown}: expected a finite number")
        asked = self.rule is not None and (registries or not self.rule.from_registry)
        if asked and self.rule is not None and not self.rule.holds(value):
            raise ConfigError(f"{shown}: expected {self.rule.expected()}")
        return value

    def parsed(self, text: str) -> Any:
        """The value that `text` from a command line stands for, checked.

        Raises:
            ConfigError: it cannot be read, or may not stand here.
        """
        if self.kind is bool and text.lower() not in ("true", "false"):
            raise ConfigError(f"{self.key}={text}: expected true or false")
        if self.kind is bool:
            return text.lower() == "true"
        try:
            return self.checked(self.kind(text))
        except ConfigError:
            raise
        except (ValueError, OverflowError):
            raise ConfigError(
                f"{self.key}={reprlib.repr(text)[1:-1]}: expected {self.kind.__name__}"
            ) from None


class Group:
    """Base of all groups: checks its values however it is made, also by `dataclasses.replace`."""

    def __post_init__(self) -> None:
        for name, one in settings(type(self)).items():
            if "." not in name:
                value = one.checked(getattr(self, name), registries=False)
                object.__setattr__(self, name, value)


def settings(kind: type) -> Mapping[str, Setting]:
    """Every setting below the class `kind` by its dotted key, in the order of declaration."""
    if kind not in _DECLARED:
        _DECLARED[kind] = {one.key: one for one in _declared(kind)}
    return _DECLARED[kind]


_DECLARED: dict[type, Mapping[str, Setting]] = {}  # reading the type hints takes a while


def _declared(kind: Any, prefix: str = "", only: str = "") -> Iterable[Setting]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key, meta = prefix + field.name, field.metadata
        alone = meta.get("only") or only
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _declared(hints[field.name], key + ".", alone)
        else:
            declared = (meta["help"], meta["rule"], meta["resume"], alone)
            yield Setting(key, hints[field.name], field.default, *declared)


def to_dict(config: Any) -> dict[str, Any]:
    """A nested dictionary of plain values, in the order of declaration."""
    return dataclasses.asdict(config)


def flat(config: Any) -> dict[str, Any]:
    """The values by dotted key."""
    return {key: _value(config, key) for key in settings(type(config))}


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def from_dict(kind: type[T], values: Any, prefix: str = "") -> T:
    """Build `kind` from a nested dictionary; missing keys keep their defaults.

    Raises:
        ConfigError: an unknown key (the nearest one is named), a wrong type or an impossible value.
    """
    if not isinstance(values, Mapping):
        where = prefix.rstrip(".") or "configuration"
        raise ConfigError(f"{where}: {reprlib.repr(values)} is not a group of settings")
    known, hints = settings(kind), typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in hints:
            raise ConfigError(unknown_key(key, [prefix + known for known in hints]))
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = from_dict(typing.cast(type, hints[name]), value, key + ".")
        else:
            arguments[name] = dataclasses.replace(known[name], key=key).checked(value)
    return kind(**arguments)


def override(config: T, assignments: Iterable[str]) -> T:
    """Apply `group.key=value` strings as given on the command line, later ones winning.

    Raises:
        ConfigError: an assignment without `=`, an unknown key or a value that does not fit.
    """
    for assignment in assignments:
        key, text = split_assignment(assignment)
        config = replaced(config, key, named_setting(type(config), key).parsed(text))
    return config


def split_assignment(assignment: str) -> tuple[str, str]:
    """Key and text of a `group.key=value`."""
    key, separator, text = assignment.partition("=")
    if not separator:
        raise ConfigError(f"--set {assignment}: write it as group.key=value")
    return key.strip(), text.strip()


def named_setting(kind: type, key: str) -> Setting:
    """The setting at the dotted `key` below `kind`.

    Raises:
        ConfigError: there is none, or `key` names a group.
    """
    known = settings(kind)
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        raise ConfigError(
            f"{key}: names a group; its keys are {', '.join(inside)}"
            if inside
            else unknown_key(key, list(known))
        )
    return known[key]


def replaced(config: Any, key: str, value: Any) -> Any:
    """A copy of `config` with `value` at the dotted `key`."""
    name, _, rest = key.partition(".")
    inner = replaced(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a name that does not exist, giving the nearest that does."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {reprlib.repr(key)}; the nearest is {nearest[0]!r}"


def describe(kind: type, command: str, width: int = 98) -> str:
    """For `--help`: every setting that `command` reads, with type, range, default and meaning."""
    lines = []
    for one in settings(kind).values():
        if one.only not in ("", command):
            continue
        range_ = f", {one.rule.expected()}" if one.rule else ""
        default = str(one.default).lower() if one.kind is bool else repr(one.default)
        resume = "; may change on resume" if one.resume else ""
        lines.append(f"  {one.key} ({one.kind.__name__}{range_}; default {default}{resume})")
        lines += textwrap.wrap(one.help, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
