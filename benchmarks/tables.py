"""Markdown tables and plots from the lines of results/: `python -m benchmarks.tables`."""

import io
from collections.abc import Sequence
from pathlib import Path

from baselines import files
from baselines.cli import Parser, run_command
from baselines.errors import UserError
from baselines.json_lines import read_lines
from benchmarks.cases import PROVIDERS
from benchmarks.records import RESULTS, Record, latest

NOT_MEASURED = "not yet measured on a GPU"


def achieved(record: Record) -> float | None:
    """Share of the measured copy bandwidth, in percent: floor bytes over time over bandwidth.

    None on a CPU, where the tensors of repeated calls stay in its caches.
    """
    if (
        record["device"].startswith("CPU")
        or "floor_bytes" not in record
        or not record.get("copy_gb_per_s")
    ):
        return None
    return 100 * record["floor_bytes"] / record["p50_ms"] / 1e6 / record["copy_gb_per_s"]


def line(record: Record) -> str:
    """One measurement in one line."""
    where = f"{record['shape_name']} B{record['shape_batch']} {record['shape_size']}²"
    start = (
        f"{record['case']:26}{record['provider']:36}{record['mode']:9}{record['dtype']:9}{where:18}"
    )
    if "error" in record:
        return f"{start}{record['error']}"
    if "peak_bytes" in record:
        return f"{start}{record['peak_bytes'] / 2**20:10.1f} MiB"
    share = achieved(record)
    return f"{start}{record['p50_ms']:10.3f} ms" + (f"{share:7.0f} % of copy" if share else "")


def comparison(old: list[Record], new: list[Record]) -> str:
    """Old time over new time of everything measured in both."""
    before = latest(old)
    rows = []
    for key, record in latest(new).items():
        if "p50_ms" in record and "p50_ms" in before.get(key, ()):
            ratio = before[key]["p50_ms"] / record["p50_ms"]
            rows.append(f"{line(record)}   {ratio:.2f} x as fast as before")
    return "\n".join(rows) or "nothing was measured in both"


def _cell(record: Record | None, baseline: Record | None) -> str:
    if record is None:
        return "–"
    if "error" in record:
        return "error"
    if "peak_bytes" in record:
        return f"{record['peak_bytes'] / 2**20:.0f} MiB"
    text = f"{record['p50_ms']:.3g}"
    if baseline is not None and baseline is not record and "p50_ms" in baseline:
        text += f" ({baseline['p50_ms'] / record['p50_ms']:.2f}×)"
    share = achieved(record)
    return text + (f", {share:.0f} %" if share else "")


def table(records: list[Record]) -> str:
    """One row per measurement, one column per provider; slow-downs are shown as they are."""
    found = latest(records)
    providers = [name for name in PROVIDERS if any(key[1] == name for key in found)]
    heads = ["case", "mode", "dtype", "shape", *providers]
    rows = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    seen = dict.fromkeys((key[0], *key[2:]) for key in found)
    for case, *rest in seen:
        entries = {name: found.get((case, name, *rest)) for name in providers}
        cells = [_cell(entries[name], entries.get("eager")) for name in providers]
        mode, dtype, name, batch, size = rest
        rows.append(
            f"| {case} | {mode} | {dtype} | {name} B{batch} {size}² | {' | '.join(cells)} |"
        )
    return "\n".join(rows)


def _kernel_table(records: list[Record]) -> str:
    heads = list(records[0])
    rows = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    rows += [
        f"| {' | '.join('–' if record[head] is None else str(record[head]) for head in heads)} |"
        for record in records
    ]
    return "\n".join(rows)


def plots(records: list[Record], out: Path) -> Path | None:
    """Time of forward and backward over the side of the grid; None without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return None
    found = [
        r
        for r in latest(records).values()
        if r["mode"] == "both" and r["dtype"] == "float32" and "p50_ms" in r
    ]
    names = sorted({r["case"] for r in found if not r["case"].startswith("damsm")})
    if not names:
        return None
    figure = Figure(figsize=(4 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for provider in dict.fromkeys(r["provider"] for r in found if r["case"] == name):
            points = sorted(
                (r["shape_size"], r["p50_ms"] / r["shape_batch"])
                for r in found
                if r["case"] == name and r["provider"] == provider and r["shape_dim"] == 32
            )
            axes.loglog(*zip(*points, strict=True), marker="o", label=provider)
        axes.set(title=name, xlabel="side of the grid", ylabel="ms per sample, both ways")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    picture = io.BytesIO()
    with rc_context({"svg.hashsalt": out.stem}):  # the same file for the same numbers
        figure.savefig(picture, format=out.suffix[1:], metadata={"Date": None})
    files.write_bytes(out, picture.getvalue())
    return out


def write(folder: Path) -> Path:
    """Draw TABLES.md and the plots from every file of `folder`."""
    parts = ["# Results\n\nDrawn by `python -m benchmarks.tables`; do not edit by hand.\n"]
    measured = sorted(path for path in folder.glob("*.jsonl") if "__torch" in path.name)
    if not any(not path.name.startswith("CPU") for path in measured):
        parts.append(f"## GPU\n\nThe fused kernels are {NOT_MEASURED}.\n")
    for path in measured:
        records = read_lines(path)
        last = records[-1]
        plot = plots(records, path.with_suffix(".svg"))
        parts.append(
            f"## {last['device']}\n\n`python -m benchmarks.run`, torch {last['torch']}, Triton "
            f"{last['triton']}, {last['threads']} CPU threads, commit {last['commit']}, copy "
            f"bandwidth {last['copy_gb_per_s']} GB/s. Milliseconds (median); in brackets the "
            "speed against eager; per cent of the copy bandwidth where bytes decide.\n"
        )
        parts.append(table(records) + "\n" + (f"\n![time]({plot.name})\n" if plot else ""))
    for path in sorted(folder.glob("kernels__*.jsonl")):
        parts.append(
            f"## Registers, shared memory and instructions ({path.stem})\n\nCompiled ahead of time "
            "by `python -m benchmarks.ahead`, on no GPU. Bytes; stack is 0 where nothing spills. "
            "Microseconds are lower bounds by the rates of an H200's data sheet, not times: of "
            "issuing the instructions, of the tensor cores, of moving the bytes.\n"
        )
        parts.append(_kernel_table(read_lines(path)) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "TABLES.md"
    files.write_text(out, "\n".join(parts))
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and draw the page."""
    parser = Parser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    folder = parser.parse_args(argv).results
    if not any(folder.glob("*.jsonl")):
        raise UserError(f"{folder} holds no measurements (*.jsonl); benchmarks.run makes them")
    print(write(folder))


if __name__ == "__main__":
    run_command(main)
