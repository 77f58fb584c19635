"""python -m benchmarks.kept: the bytes a step keeps for its backward pass. Needs no GPU.

The step runs on tensors that say they are on a GPU and hold nothing, so what is counted is what a
GPU would hold between the passes: every storage that autograd saves, once, beside the inputs and
parameters. Exact, and not the peak: that also has what a pass needs while it runs.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines.cli import Parser, run_command
from benchmarks.cases import SHAPES, Case, Shape
from benchmarks.paths import cases
from benchmarks.saved_tensors import SavedTensors

COUNTED = ("loss_path", "phi")
DTYPES = (torch.float32, torch.bfloat16)


def _on_a_gpu(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.detach().cuda().requires_grad_(argument.requires_grad)
    return argument.cuda() if isinstance(argument, nn.Module) else argument


def _storages(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, nn.Module):
            yield from argument.parameters()


def kept(case: Case, provider: str, shape: Shape, dtype: torch.dtype) -> int:
    """Bytes that the forward pass of a provider keeps, beside inputs and parameters."""
    arguments = case.inputs(shape, dtype, torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        arguments = tuple(_on_a_gpu(argument) for argument in arguments)
        with SavedTensors(_storages(arguments)) as saved:
            outputs = case.functions[provider](*arguments)
        found = saved.live
        del outputs
    return found


def table() -> str:
    """Reference and fused, of the loss path and of φ alone, at the published shapes."""
    lines = [
        "| kept | reference, float32 | fused, float32 | reference, bfloat16 | fused, bfloat16 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in (case for case in cases() if case.name in COUNTED):
        for shape in (shape for shape in SHAPES if shape.size == 128):
            line = f"| {case.name}, {shape.name}"
            for dtype in DTYPES:
                plain, fused = (kept(case, name, shape, dtype) for name in ("eager", "fused"))
                line += f" | {plain / 1e6:.0f} MB | {fused / 1e6:.0f} MB, {fused / plain:.0%}"
            lines.append(line.replace("%", " %") + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; there are no options."""
    Parser(
        prog="python -m benchmarks.kept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    print(table())


if __name__ == "__main__":
    run_command(main)
