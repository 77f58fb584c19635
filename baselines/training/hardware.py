"""What the hardware at hand can do: native half precision, memory."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import torch

CPU_DESCRIPTION = Path("/proc/cpuinfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# What processors call their bfloat16 products: x86 by vectors and by tiles, Arm.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def resolved_amp(amp: str, device: torch.device) -> str:
    """A setting of `amp` with "auto" decided for `device`; any other value is returned as it is.

    "auto" is "bf16" where the hardware multiplies it natively (NVIDIA from compute capability 8.0,
    CPUs with AVX512-BF16, AMX or Arm's BF16), else "no": emulated, it is slower than float32.
    """
    if amp != "auto":
        return amp
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and bool(cpu_flags() & BF16_FLAGS)
    return "bf16" if native else "no"


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """The arithmetic of "no", "bf16" or "fp16" (see `resolved_amp`) on `device`."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "no")


def cpu_flags() -> set[str]:
    """The instruction sets of this processor; empty where the system does not list them."""
    if not os.access(CPU_DESCRIPTION, os.R_OK):
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", CPU_DESCRIPTION.read_text(), re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def total_memory(device: torch.device) -> float:
    """Bytes of memory that `device` has in all; infinite where the system does not tell.

    On a CPU the machine's, or what the container may use of it.
    """
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        machine = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
    limit = CONTAINER_LIMIT.read_text().strip() if os.access(CONTAINER_LIMIT, os.R_OK) else "max"
    return min(machine, float(limit)) if limit.isdecimal() else machine
