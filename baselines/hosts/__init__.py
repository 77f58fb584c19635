"""The hosts: one folder each, and the one list of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from baselines.config import Config, ConfigError, unknown_key
from baselines.hosts.host import Host

if TYPE_CHECKING:
    from torch import nn

NAMES = (
    "attngan",
    "dmgan",
    "alrgan",
    "stackgan",
    "dfgan",
    "mirrorgan",
)
HOSTS: dict[str, Host] = {name: import_module(f"baselines.hosts.{name}").HOST for name in NAMES}

__all__ = [
    "HOSTS",
    "Host",
    "build_discriminators",
    "build_generator",
    "find_host",
    "preset",
    "readers",
]


def find_host(name: str) -> Host:
    """The host called `name`.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    if name not in HOSTS:
        raise ConfigError(f"model: {unknown_key(name, list(HOSTS))}")
    return HOSTS[name]


def preset(host: str, name: str) -> Config:
    """The configuration called `name` of a host.

    Raises:
        ConfigError: no such host or preset; the nearest is named.
    """
    presets = find_host(host).presets
    if name not in presets:
        raise ConfigError(f"preset of {host}: {unknown_key(name, list(presets))}")
    return presets[name]


def readers(key: str) -> list[str]:
    """The hosts that read the setting `key`: all, unless some name it among what they read."""
    return [name for name, host in HOSTS.items() if key in host.reads] or list(HOSTS)


def build_generator(config: Config) -> nn.Module:
    """The generator of `config.model`, freshly initialised."""
    return find_host(config.model.name).generator(config)


def build_discriminators(config: Config) -> nn.ModuleList:
    """The discriminators of `config.model`, smallest images first."""
    return find_host(config.model.name).discriminators(config)
