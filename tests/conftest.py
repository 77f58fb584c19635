"""Settings of the whole suite."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from alr_layers.kernels import dispatch

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts from one seed, and with no backend chosen by another."""
    monkeypatch.setattr(dispatch, "_selected", "auto")
    torch.manual_seed(0)
    yield
