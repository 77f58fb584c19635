"""The gate: nothing is measured unless the tests of what is measured pass on this device.

A green run leaves a stamp, kept for these sources, this device and these versions, so that the next
stretch on the same machine need not spend its time on it again.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from baselines.json_lines import append_line, read_lines

ROOT = Path(__file__).resolve().parents[1]


def sources_digest() -> str:
    """Names the state of the library and the benchmark, with or without a git repository."""
    digest = hashlib.sha256()
    for folder in ("alr_layers", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def git(*arguments: str) -> str | None:
    """What git says of this checkout; None where there is no git or no repository."""
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def tests_of(device: torch.device) -> list[str]:
    """What pytest is given for this device."""
    if device.type == "cuda":
        return ["-m", "gpu", "tests/alr_layers/test_kernels_gpu.py"]
    return ["tests/alr_layers/test_equations.py"]


def stamp_of(facts: dict[str, Any]) -> dict[str, Any]:
    """What a green run holds for."""
    return {name: facts[name] for name in ("sources", "device", "torch", "triton")}


def pass_gate(device: torch.device, facts: dict[str, Any], stamps: Path) -> str:
    """Run the tests unless `stamps` has them green for these facts; the summary of pytest.

    Raises:
        SystemExit: a test fails; the message holds pytest's whole report.
    """
    stamp = stamp_of(facts)
    for entry in read_lines(stamps):
        if entry["stamp"] == stamp:
            return f"{entry['summary']} (at {entry['date']}, not run again)"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests_of(device)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{run.stdout}{run.stderr}\nThe gate is red: nothing is measured.")
    summary = run.stdout.strip().splitlines()[-1]
    stamps.parent.mkdir(parents=True, exist_ok=True)
    append_line(stamps, {"stamp": stamp, "summary": summary, "date": facts["date"]})
    return summary
