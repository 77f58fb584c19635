"""`python -m alr_layers`: versions, device, and the backend each op would take and why."""

import platform

import torch
from torch import Tensor

from alr_layers import __version__
from alr_layers.kernels.dispatch import BACKENDS, ENVIRONMENT_VARIABLE, explain
from alr_layers.kernels.requirements import OPS, TRITON, arguments


def _samples(device: str) -> dict[str, Tensor]:
    """Small tensors by the names of the ops' arguments; larger ones are decided alike."""
    features = torch.zeros(2, 32, 8, 8, device=device)
    layout = torch.zeros(2, 16, 8, 8, device=device)
    return {
        "features": features,
        "real_features": features,
        "projected_words": torch.zeros(2, 32, 16, device=device),
        "lengths": torch.ones(2, dtype=torch.int64, device=device),
        "layout": layout,
        "real_layout": layout,
        "easy": layout,
        "hard": layout,
        "alpha": features,
        "beta": features,
    }


def main() -> None:
    """Print the report."""
    has_cuda = torch.cuda.is_available()
    device = "cuda" if has_cuda else "cpu"
    print(f"alr_layers {__version__}, Python {platform.python_version()}")
    print(f"torch      {torch.__version__}")
    print(f"triton     {TRITON or 'not installed'}")
    print(f"device     {torch.cuda.get_device_name() if has_cuda else platform.machine() + ' CPU'}")
    print(f"backend    set by use_backend or {ENVIRONMENT_VARIABLE}: {', '.join(BACKENDS)}")
    samples = _samples(device)
    for op in OPS:
        print(f"  {explain(op, *(samples[name] for name in arguments(op) if name in samples))}")


if __name__ == "__main__":
    main()
