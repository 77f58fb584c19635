"""Where real data and reference tensors lie when they are at hand."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("ALR_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> Path:
    """A path below the folder of shared data, which need not exist."""
    return SHARED.joinpath(*parts)


def require(path: Path) -> Path:
    """Skip the calling test, saying why, unless `path` exists."""
    if not path.exists():
        pytest.skip(f"needs {path.name}, not found beside the project (set ALR_SHARED)")
    return path
