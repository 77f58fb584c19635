"""`python -m alr_layers`: versions, device, and the backend each op would take and why."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from alr_layers import __version__
from alr_layers.kernels.dispatch import BACKENDS, ENVIRONMENT_VARIABLE, OPS, explain


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _samples(device: str) -> dict[str, tuple[Tensor, ...]]:
    """Small tensors such as each op takes: what is decided of them holds for larger ones."""
    features = torch.zeros(2, 32, 8, 8, device=device)
    layout = torch.zeros(2, 16, 8, 8, device=device)
    words = torch.zeros(2, 32, 16, device=device)
    lengths = torch.ones(2, dtype=torch.int64, device=device)
    return {
        "semantic_similarity": (features, words, lengths),
        "text_vision_matrix": (layout, words),
        "layout_context": (features, words, lengths),
        "gated_residual": (layout, layout, features),
        "closing_reduction": (layout, layout, features, features),
        "layout_closing_reduction": (layout, layout, features, features),
        "masked_difference": (features, features, layout, layout),
    }


def main() -> None:
    """Print the report."""
    has_cuda = torch.cuda.is_available()
    device = "cuda" if has_cuda else "cpu"
    print(f"alr_layers {__version__}, Python {platform.python_version()}")
    print(f"torch      {torch.__version__}")
    print(f"triton     {_installed('triton')}")
    print(f"device     {torch.cuda.get_device_name() if has_cuda else platform.machine() + ' CPU'}")
    print(f"backend    set by use_backend or {ENVIRONMENT_VARIABLE}: {', '.join(BACKENDS)}")
    samples = _samples(device)
    for op in OPS:
        print(f"  {explain(op, *samples[op])}")


if __name__ == "__main__":
    main()
