import doctest
from importlib import import_module

import pytest

from tests.support.paths import ROOT

MODULES = sorted(
    f"{folder}.{path.stem}"
    for folder in ("metrics", "pages", "sampling")
    for path in (ROOT / "baselines" / folder).glob("[!_]*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    module = import_module(f"baselines.{name}")
    failed, _ = doctest.testmod(module)
    assert not failed


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    modules = (import_module(f"baselines.{name}") for name in MODULES)
    assert sum(bool(test.examples) for m in modules for test in finder.find(m)) >= 10
