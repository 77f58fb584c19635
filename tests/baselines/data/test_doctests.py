"""The examples in the docstrings give what they say."""

import doctest
import pkgutil
from importlib import import_module

import pytest

from baselines import data

MODULES = sorted(module.name for module in pkgutil.iter_modules(data.__path__))
WITH_EXAMPLES = {"files", "loader", "opening", "reading", "scenes", "source", "vocabulary"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(import_module(f"baselines.data.{name}"))
    assert not result.failed
    assert bool(result.attempted) == (name in WITH_EXAMPLES)
