"""Complete trainers for AttnGAN, DM-GAN and ALR-GAN on one training loop.

From Python, a trained run draws like this:

    pipeline = baselines.load("runs/x")
    images = pipeline(["a small red bird with a white belly"], seed=0)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from baselines.console import interrupt_in_one_line

if TYPE_CHECKING:
    from baselines.sampling.pipeline import load

__all__ = ["load"]

if sys.argv[:1] == ["-m"]:  # `python -m baselines.train` and the like, before its own imports
    interrupt_in_one_line()


def __getattr__(name: str) -> Any:
    """Import `load` when it is first used: `import baselines` alone stays light."""
    if name in __all__:
        from baselines.sampling import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
