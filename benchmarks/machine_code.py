"""Count what a compiled kernel issues: its machine code, its loops, and how often they turn.

Nothing here is a time that was measured. Every warp instruction takes one slot of a scheduler, so
the slots over the schedulers' rate are a time that the kernel cannot beat, whatever memory does.
"""

import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE
)


@dataclass(frozen=True)
class Accelerator:
    """The rates of a GPU by its data sheet, for comparing kernels with each other."""

    name: str
    multiprocessors: int
    gigahertz: float
    bytes_per_second: float

    @property
    def slots_per_second(self) -> float:
        """Warp instructions: four schedulers a multiprocessor issue one a cycle each."""
        return self.multiprocessors * 4 * self.gigahertz * 1e9


# 132 multiprocessors at 1.98 GHz (67 TFLOP/s of float32), and 90 % of 4.8 TB/s.
H200 = Accelerator("H200", 132, 1.98, 4.3e12)
TENSOR_RATE = 512  # multiply-adds a cycle of the tensor core beside each scheduler (989 TFLOP/s)
# Tensor core instructions on halves: of one warp, and on Hopper of four warps together.
MATRIX = re.compile(r"HMMA\.(?P<m>16)(?P<n>8)(?P<k>8|16)\b|HGMMA\.(?P<M>64)x(?P<N>\d+)x(?P<K>16)")


@dataclass(frozen=True)
class Instruction:
    """One line of machine code; `target` is where a branch goes."""

    address: int
    name: str
    target: int | None


@dataclass(frozen=True)
class Loop:
    """The instructions from `start` to `end`, which jumps back to it."""

    start: int
    end: int

    def holds(self, address: int) -> bool:
        """Whether the instruction there is part of the loop."""
        return self.start <= address <= self.end


def disassembled(cubin: bytes) -> str:
    """The machine code of a kernel as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "-sass", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def instructions(text: str) -> list[Instruction]:
    """In order, up to the branch to itself that ends a kernel: what follows is padding."""
    found = []
    for address, name, operands in INSTRUCTION.findall(text):
        target = re.search(r"0x([0-9a-f]+)\s*$", operands) if name.startswith("BRA") else None
        line = Instruction(int(address, 16), name, int(target[1], 16) if target else None)
        if line.target == line.address:
            break
        found.append(line)
    return found


def loops(code: Sequence[Instruction]) -> list[Loop]:
    """One for every branch that goes back."""
    return [
        Loop(line.target, line.address)
        for line in code
        if line.target is not None and line.target <= line.address
    ]


def issued(code: Sequence[Instruction], turns: Sequence[int]) -> Counter[str]:
    """How often a warp issues each kind of instruction.

    Args:
        code: the kernel.
        turns: how often a loop turns, by how deep it is nested; the last holds for all deeper.
    """
    every = loops(code)
    if every and not turns:
        raise ValueError("the kernel has loops, and nothing says how often they turn")
    total: Counter[str] = Counter()
    for line in code:
        depth = sum(loop.holds(line.address) for loop in every)
        levels = (min(level, len(turns) - 1) for level in range(depth))
        total[line.name] += math.prod(turns[level] for level in levels)
    return total


def multiply_adds(names: Counter[str]) -> int:
    """Of one warp's tensor core instructions."""
    total = 0
    for name, times in names.items():
        if found := MATRIX.match(name):
            sizes = [int(size) for size in found.groups() if size]
            total += times * math.prod(sizes) // (4 if name.startswith("HG") else 1)
    return total


def turns_of(arguments: dict[str, Any]) -> list[int]:
    """How often the loops of one of our kernels turn, outermost first, from its arguments."""
    found = [arguments["tiles_per_split"]] if "tiles_per_split" in arguments else []
    if "dim" in arguments and "BLOCK_D" in arguments:
        found.append(-(-arguments["dim"] // arguments["BLOCK_D"]))
    return found


def issue_microseconds(names: Counter[str], warps: int, gpu: Accelerator = H200) -> float:
    """The time the schedulers need for all warps, evenly spread."""
    return names.total() * warps / gpu.slots_per_second * 1e6


def tensor_microseconds(names: Counter[str], warps: int, gpu: Accelerator = H200) -> float:
    """The time the tensor cores need for all warps."""
    return multiply_adds(names) * warps / TENSOR_RATE / gpu.slots_per_second * 1e6
