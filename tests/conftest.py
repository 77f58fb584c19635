"""Settings of the whole suite."""

from collections import Counter
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


def pytest_terminal_summary(terminalreporter):
    """Say what this machine did not run, by reason, so that green is not taken for everything."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    left_out = len(terminalreporter.stats.get("deselected", []))
    if not reasons and not left_out:
        return
    terminalreporter.section("not run here")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5d}  {reason}")
    if left_out:
        terminalreporter.line(f"{left_out:5d}  behind a marker: pytest -m gpu, pytest -m battery")
