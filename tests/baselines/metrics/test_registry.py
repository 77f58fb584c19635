import ast

import pytest

from baselines.metrics import FILES, METRICS
from tests.support.paths import ROOT

FOLDER = ROOT / "baselines" / "metrics"


def test_every_metric_is_one_file_named_once():
    assert list(METRICS) == list(FILES) and len(set(FILES.values())) == len(METRICS)
    for name, spec in METRICS.items():
        assert spec.name == name
        assert spec.title("damsm") and spec.better in ("higher", "lower", "")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_metrics_know_no_command(path):
    named = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    commands = {f"baselines.{path.stem}" for path in (ROOT / "baselines").glob("*.py")}
    others = ("config", "console", "errors", "runs", "losses", "files")
    allowed = {f"baselines.{name}" for name in others}
    assert not named & (commands - allowed)
    # Of sampling only the function that draws.
    sampling = {name for name in named if name.startswith("baselines.sampling")}
    assert all(name.startswith("baselines.sampling.drawing") for name in sampling)
