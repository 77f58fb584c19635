"""Fixtures of the trainers' tests."""

from tests.baselines.commands import encoders  # noqa: F401 - a fixture
