"""python -m benchmarks.gpu_hour: all that a first hour on a GPU should answer, in stretches.

    python -m benchmarks.gpu_hour --out hour.jsonl --deadline 540

The same command again goes on where the deadline ended it. Stages come in the order of what they
tell; each leaves its lines in the file as it goes, and at the end `hour.md` says which of the
questions are answered, how, and which are still open.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines import files
from baselines.cli import Parser, run_command
from baselines.json_lines import read_lines
from baselines.training.distributed import pick_device
from benchmarks import questions, stages
from benchmarks.gate import pass_gate
from benchmarks.options import duration
from benchmarks.records import Record, append, conditions
from benchmarks.run import stamps_file


@dataclass(frozen=True)
class Stage:
    """A part of the hour; `run` yields records and stops at the time it is given."""

    name: str
    what: str
    run: Callable[[stages.Stretch], Iterator[Record]]


STAGES = (
    Stage("quick", "every op at one shape: eager, compiled, fused, a copy", stages.quick),
    Stage("kernels", "where the time of the path goes, by the profiler", stages.kernels),
    Stage("phi", "φ alone: layouts of memory, autocast, compiled", stages.phi),
    Stage("sweep", "dot precision, warps and tiles of the kernels with products", stages.sweep),
    Stage("graphs", "64 x 64 as a CUDA graph, and what the host spends", stages.graphs),
    Stage("memory", "peak memory of the path and the ops", stages.memory),
    Stage("paths", "the whole path at every published shape", stages.paths),
    Stage("training", "a training step of each host, the originals' way and ours", stages.training),
)


def done_in(records: Sequence[Record], sources: str) -> list[Record]:
    """The records of these sources: others answer nothing about them."""
    return [record for record in records if record.get("sources") == sources]


def run_stages(
    chosen: Sequence[Stage], stretch: stages.Stretch, out: Path
) -> tuple[list[Record], list[str]]:
    """(all records, the names of stages that are complete), each record in `out` at once."""
    complete = {r["stage"] for r in stretch.records if r.get("kind") == "complete"}
    for stage in chosen:
        if stage.name in complete:
            continue
        if stretch.is_over():
            break
        print(f"== {stage.name}: {stage.what}", flush=True)
        for record in stage.run(stretch):
            record = {**record, "stage": stage.name, **stretch.facts}
            stretch.records.append(record)
            append(out, record)
            print(stages.line(record), flush=True)
        if not stretch.is_over():
            record = {"kind": "complete", "stage": stage.name, **stretch.facts}
            stretch.records.append(record)
            append(out, record)
            complete.add(stage.name)
    return stretch.records, [stage.name for stage in chosen if stage.name in complete]


def parser() -> Parser:
    """The command line."""
    names = [stage.name for stage in STAGES]
    found = Parser(prog="python -m benchmarks.gpu_hour", description=__doc__)
    found.add_argument("--out", type=Path, default=Path("gpu_hour.jsonl"), help="goes on with it")
    found.add_argument("--deadline", type=duration, default=540, metavar="SECONDS")
    found.add_argument("--stage", action="append", choices=names, help="only this (repeatable)")
    found.add_argument("--device", default="auto")
    found.add_argument("--skip-gate", action="store_true", help="to try the command out")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Gate, stages until the deadline, questions."""
    until = time.monotonic()
    options = parser().parse_args(arguments)
    until += options.deadline
    device = pick_device(options.device)
    facts = conditions(device)
    records = done_in(read_lines(options.out), facts["sources"])
    if not options.skip_gate:
        summary = pass_gate(device, facts, stamps_file(options.out))
        print(f"gate: {summary}", flush=True)
        record = {"kind": "gate", "stage": "gate", "summary": summary, **facts}
        records.append(record)
        append(options.out, record)
    stretch = stages.Stretch(device, facts, records, until)
    chosen = [stage for stage in STAGES if not options.stage or stage.name in options.stage]
    records, complete = run_stages(chosen, stretch, options.out)
    report = options.out.with_suffix(".md")
    files.write_text(report, questions.report(records, [s.name for s in chosen], complete))
    left = [stage.name for stage in chosen if stage.name not in complete]
    print(f"wrote {options.out} and {report}")
    print(f"left: {', '.join(left)}; the same command goes on" if left else "nothing is left")


if __name__ == "__main__":
    run_command(main)
