import doctest
from importlib import import_module

import pytest

from tests.support.paths import ROOT

MODULES = sorted(path.stem for path in (ROOT / "baselines" / "metrics").glob("[!_]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    module = import_module(f"baselines.metrics.{name}")
    failed, _ = doctest.testmod(module)
    assert not failed


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    modules = (import_module(f"baselines.metrics.{name}") for name in MODULES)
    assert sum(bool(test.examples) for m in modules for test in finder.find(m)) >= 10
