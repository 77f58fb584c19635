import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip("triton")

FOLDER = Path(__file__).parent / "interpreter"


def loops_can_be_interpreted() -> bool:
    """Triton 3.6 turns arrays of one element into loop bounds, which recent NumPy refuses."""
    try:
        int(np.array([1]))
    except TypeError:
        return tuple(int(part) for part in triton.__version__.split(".")[:2]) > (3, 6)
    return True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_kernels_hold_under_the_interpreter(file):
    """Triton reads TRITON_INTERPRET when it is imported, hence a process of its own."""
    if not loops_can_be_interpreted():
        pytest.skip(
            f"Triton {triton.__version__} cannot interpret loops with NumPy {np.__version__}"
        )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(FOLDER / file),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
