"""Compile every kernel for a GPU that need not be there, and read what the compiler made of it.

    python -m benchmarks.ahead          # writes results/kernels__triton<version>.jsonl

The library's own launching code runs, on CPU tensors, under a driver that stops after compilation:
what is compiled is what a GPU of that compute capability would run, specialisation included.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from alr_layers.kernels import tiles
from benchmarks.cases import SHAPES, Case, Shape, cases

CAPABILITIES = ((7, 5), (8, 0), (9, 0))
# Per program, in bytes, what a kernel may ask for (compute capabilities 7.5, 8.0 and 9.0).
SHARED_MEMORY = {(7, 5): 65536, (8, 0): 166912, (9, 0): 232448}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Figures:
    """What one compiled kernel takes of a multiprocessor."""

    kernel: str
    case: str
    shape: str
    dtype: str
    capability: str
    warps: int
    registers: int
    shared: int
    stack: int


class CompileOnlyDriver:
    """As much of a Triton driver as compilation asks for. The target stands for the device."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.arch = capability[0] * 10 + capability[1]

    def get_current_device(self) -> int:
        """One number per target, since compiled kernels are kept per device."""
        return self.arch

    def get_current_stream(self, device: int) -> int:
        """No stream: nothing is launched."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return GPUTarget("cuda", self.arch, 32)


@contextmanager
def compiling_for(capability: tuple[int, int]) -> Iterator[list[Any]]:
    """Within the block, launches compile and do not run; the kernels are put in the list."""
    kernels: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        kernels.append(kernel)
        return kernel

    previous = driver._active
    driver.set_active(CompileOnlyDriver(capability))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(tiles, "compute_capability", lambda tensor: capability),
        ):
            yield kernels
    finally:
        driver._active = previous


def resource_usage(kernel: Any) -> dict[str, int]:
    """Registers a thread, stack bytes a thread (spills lie there), as the machine code says."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"(REG|STACK):(\d+)", text))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"])}


def launch(case: Case, shape: Shape, dtype: torch.dtype) -> None:
    """Forward and backward of the fused form, on CPU tensors of two samples."""
    arguments = case.inputs(replace(shape, batch=2), dtype, torch.device("cpu"))
    outputs = case.providers["fused"](*arguments)
    wanted = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    live = [output for output in outputs if output.requires_grad]
    torch.autograd.grad(live, wanted, [torch.ones_like(output) for output in live])


def figures(
    case: Case, shape: Shape, dtype: torch.dtype, capability: tuple[int, int]
) -> list[Figures]:
    """Of every kernel that forward and backward of `case` launch, in order."""
    with compiling_for(capability) as kernels:
        launch(case, shape, dtype)
    return [
        Figures(
            kernel=kernel.name,
            case=case.name,
            shape=f"D {shape.dim}, T {shape.words}, {shape.size}x{shape.size}",
            dtype=str(dtype).removeprefix("torch."),
            capability=f"{capability[0]}.{capability[1]}",
            warps=kernel.metadata.num_warps,
            shared=kernel.metadata.shared,
            **resource_usage(kernel),
        )
        for kernel in kernels
    ]


def main() -> None:
    """Write the figures of all ops for all architectures, at the shapes of the models."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    folder = Path(__file__).parent / "results"
    parser.add_argument(
        "--out", type=Path, default=folder / f"kernels__triton{triton.__version__}.jsonl"
    )
    out = parser.parse_args().out
    out.parent.mkdir(exist_ok=True)
    with out.open("w") as file:
        for capability in CAPABILITIES:
            for dtype in (torch.float32, torch.float16):
                for case in cases()[:4]:
                    for shape in (shape for shape in SHAPES if shape.size == 128):
                        for found in figures(case, shape, dtype, capability):
                            file.write(json.dumps(asdict(found)) + "\n")
                    file.flush()
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
