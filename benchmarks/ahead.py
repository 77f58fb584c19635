"""Compile every kernel for a GPU that need not be there, and read what the compiler made of it.

    python -m benchmarks.ahead          # writes results/kernels__triton<version>.jsonl

The library's own launching code runs, on CPU tensors, under a driver that stops after compilation:
what is compiled is what a GPU of that compute capability would run, specialisation included. For
9.0 the instructions are counted as well, loops and programs included, and set against the rates of
an H200's data sheet: `issue_us` and `tensor_us` are lower bounds, `floor_us` is that of the bytes.
"""

import argparse
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from alr_layers.kernels import tiles
from baselines.cli import Parser, run_command
from baselines.json_lines import read_lines, write_lines
from benchmarks.cases import SHAPES, Case, Shape, op_cases
from benchmarks.machine_code import (
    H200,
    TOOLS,
    disassembled,
    instructions,
    issue_microseconds,
    issued,
    tensor_microseconds,
    turns_of,
)
from benchmarks.options import at_least
from benchmarks.records import RESULTS

CAPABILITIES = ((7, 5), (8, 0), (9, 0))
# Per program, in bytes, what a kernel may ask for (compute capabilities 7.5, 8.0 and 9.0).
SHARED_MEMORY = {(7, 5): 65536, (8, 0): 166912, (9, 0): 232448}
COUNTED = (9, 0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
    instructions: int
    programs: int
    issue_us: float | None
    tensor_us: float | None
    floor_us: float | None


@dataclass(frozen=True)
class Launch:
    """A compiled kernel and what it was launched with."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]


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
def compiling_for(capability: tuple[int, int]) -> Iterator[list[Launch]]:
    """Within the block, launches compile and do not run; all are put in the list."""
    launches: list[Launch] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        launches.append(Launch(kernel, math.prod(grid), options))
        return kernel

    previous = driver._active
    driver.set_active(CompileOnlyDriver(capability))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(tiles, "compute_capability", lambda tensor: capability),
        ):
            yield launches
    finally:
        driver._active = previous


def resource_usage(kernel: Any) -> dict[str, int]:
    """Registers a thread, stack bytes a thread (spills lie there), as the machine code says."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"(REG|STACK):(\d+)", text))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"])}


def launch(case: Case, shape: Shape, dtype: torch.dtype) -> None:
    """Forward and backward of the fused form, on CPU tensors."""
    arguments = case.inputs(shape, dtype, torch.device("cpu"))
    outputs = case.functions["fused"](*arguments)
    wanted = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    live = [output for output in outputs if output.requires_grad]
    torch.autograd.grad(live, wanted, [torch.ones_like(output) for output in live])


def counted(found: Launch, case: Case, shape: Shape, dtype: torch.dtype) -> dict[str, float | None]:
    """The lower bounds in microseconds: of issue, of the tensor cores, of the bytes."""
    code = instructions(disassembled(found.kernel.asm["cubin"]))
    names = issued(code, turns_of(found.arguments))
    warps = found.kernel.metadata.num_warps * found.programs
    mode = "backward" if "backward" in found.kernel.name else "forward"
    floor = case.floor_bytes(shape, dtype, mode)
    return {
        "issue_us": round(issue_microseconds(names, warps), 1),
        "tensor_us": round(tensor_microseconds(names, warps), 1),
        "floor_us": None if floor is None else round(floor / H200.bytes_per_second * 1e6, 1),
    }


def figures(
    case: Case, shape: Shape, dtype: torch.dtype, capability: tuple[int, int]
) -> list[Figures]:
    """Of every kernel that forward and backward of `case` launch, in order."""
    counts = capability == COUNTED
    with compiling_for(capability) as launches:
        launch(case, shape if counts else replace(shape, batch=2), dtype)
    unknown = dict.fromkeys(("issue_us", "tensor_us", "floor_us"))
    return [
        Figures(
            kernel=found.kernel.name,
            case=case.name,
            shape=f"B {shape.batch}, D {shape.dim}, T {shape.words}, {shape.size}x{shape.size}",
            dtype=str(dtype).removeprefix("torch."),
            capability=f"{capability[0]}.{capability[1]}",
            warps=found.kernel.metadata.num_warps,
            shared=found.kernel.metadata.shared,
            instructions=len(instructions(disassembled(found.kernel.asm["cubin"]))),
            programs=found.programs,
            **resource_usage(found.kernel),
            **(counted(found, case, shape, dtype) if counts else unknown),
        )
        for found in launches
    ]


def _shape(text: str) -> Shape:
    try:
        batch, dim, words, size = (at_least(1)(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        form = "expected B,D,T,SIZE, such as 20,32,18,128"
        raise argparse.ArgumentTypeError(f"{text!r}: {form}") from None
    return Shape(text, batch, dim, words, size)


def _measurement(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("case", "shape", "dtype", "capability"))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the figures of all ops at the shapes of the models; others in the file stay."""
    parser = Parser(
        prog="python -m benchmarks.ahead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = {f"{major}.{minor}": (major, minor) for major, minor in CAPABILITIES}
    parser.add_argument(
        "--out", type=Path, default=RESULTS / f"kernels__triton{triton.__version__}.jsonl"
    )
    parser.add_argument(
        "--capability", action="append", choices=list(names), help="only this (repeatable)"
    )
    parser.add_argument(
        "--shape", action="append", metavar="B,D,T,SIZE", type=_shape, help="these instead"
    )
    options = parser.parse_args(argv)
    shapes = options.shape or [shape for shape in SHAPES if shape.size == 128]
    before, lines = read_lines(options.out), []
    for name in options.capability or names:
        # Before 8.0 there are no tensor cores for bfloat16.
        dtypes = DTYPES if names[name] >= (8, 0) else DTYPES[:2]
        for dtype, case, shape in product(dtypes, op_cases(), shapes):
            lines += [asdict(found) for found in figures(case, shape, dtype, names[name])]
            done = set(map(_measurement, lines))
            kept = [line for line in before if _measurement(line) not in done]
            write_lines(options.out, [*kept, *lines])
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_command(main)
