"""The child process of `foreign.py`, started by its path: imports nothing but torch."""

from __future__ import annotations

import json
import re
import reprlib
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

SHOWN = 12
NETWORKS = "model."
# Weights that are views of one another take more memory than their file, though never much more.
EXPANSION = 4


def limit_memory(extra: int) -> None:
    """Let this process map `extra` bytes more than it has; only Linux can tell and enforce it."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        import resource

        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + extra
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def extract(source: Path, target: Path) -> str:
    """Write the tensors of a torch file as safetensors; what is wrong with it, or ""."""
    try:
        state: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged files fail in any way.
        return f"cannot be read as tensors ({brief(error)})"
    if not isinstance(state, dict):
        return f"holds a {type(state).__name__}, not a dictionary of tensors"
    networks = state.get("model")
    if isinstance(networks, dict) and all(isinstance(one, dict) for one in networks.values()):
        # DF-GAN's files: several networks, and optimisers that nobody needs here.
        state = {f"{NETWORKS}{n}.{key}": v for n, one in networks.items() for key, v in one.items()}
    odd = [
        f"{reprlib.repr(key)}: {type(value).__name__}"
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if odd:
        return "not a plain state_dict of tensors: " + "; ".join(odd[:SHOWN])
    amount = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if amount > EXPANSION * source.stat().st_size:
        return f"its tensors would take {amount:,} bytes, far more than the file has"
    plain = {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}
    safetensors.torch.save_file(plain, target)
    return ""


def brief(error: Exception) -> str:
    """What torch found, without its advice to run the code of the file."""
    text = str(error)
    found = re.search(r"WeightsUnpickler error: *([^\n]*)", text)
    line = found[1] if found else text.split("\n")[0]
    return line[:200] if line and "weights_only" not in line else type(error).__name__


def main() -> None:
    """Source, target and memory as arguments; a line of JSON on standard output."""
    source, target, memory = sys.argv[1:]
    limit_memory(int(memory))
    print(json.dumps({"fault": extract(Path(source), Path(target))}))


if __name__ == "__main__":
    main()
