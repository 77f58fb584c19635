"""Fixtures of the trainers' tests."""

from tests.trainers.commands import encoders  # noqa: F401 - a fixture
