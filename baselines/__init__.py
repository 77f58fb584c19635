"""Complete trainers for AttnGAN, DM-GAN and ALR-GAN on one training loop.

From Python, a trained run draws like this:

    pipeline = baselines.load("runs/x")
    images = pipeline(["a small red bird with a white belly"], seed=0)

and is published like this:

    baselines.push_to_hub("runs/x", "owner/name")
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from baselines.console import interrupt_in_one_line

if TYPE_CHECKING:
    from baselines.publishing.snapshot import push_to_hub
    from baselines.sampling.pipeline import load

__all__ = ["load", "push_to_hub"]

if sys.argv[:1] == ["-m"]:  # `python -m baselines.train` and the like, before its own imports
    interrupt_in_one_line()


def __getattr__(name: str) -> Any:
    """Import a function when it is first used: `import baselines` alone stays light."""
    if name == "load":
        from baselines.sampling.pipeline import load

        return load
    if name == "push_to_hub":
        from baselines.publishing.snapshot import push_to_hub

        return push_to_hub
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
