"""The questions a first hour on a GPU should answer, and what the records say to each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.records import Record, latest
from benchmarks.tables import table

# What the fused kernels are held to on an H200. Speed against eager unless it says otherwise.
OP_TARGETS = {
    "gated_residual": 4.0,
    "layout_closing_reduction": 4.0,
    "masked_difference": 4.0,
    "layout_context": 1.5,
}
COPY_SHARE = 0.7
PATH_EAGER, PATH_COMPILED, KERNELS_EAGER = 2.5, 1.3, 4.0
GRAPH_TARGET, MEMORY_TARGET = 3.0, 0.5


@dataclass(frozen=True)
class Answer:
    """One line of the report; `holds` is None where the question has no target."""

    text: str
    holds: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "yes", False: "no", None: "measured"}[self.holds]
        return f"{verdict}: {self.text}"


def _timed(records: Sequence[Record], case: str, size: int, mode: str) -> Iterator[list[Record]]:
    """The records of one case, grouped by shape and dtype."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in latest(r for r in records if "shape_size" in r).values():
        wanted = (record["case"], record["shape_size"], record["mode"]) == (case, size, mode)
        if wanted and ("p50_ms" in record or "peak_bytes" in record):
            groups.setdefault((record["shape_name"], record["dtype"]), []).append(record)
    yield from groups.values()


def ratios(
    records: Sequence[Record],
    case: str,
    of: tuple[str, str],
    to: tuple[str, str],
    *,
    size: int = 128,
    number: str = "p50_ms",
) -> dict[str, float]:
    """Shape and dtype -> how many times as much `of` takes as `to`, each (provider, mode)."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for mode in {of[1], to[1]}:
        for group in _timed(records, case, size, mode):
            for r in group:
                if number in r:
                    place = f"{r['shape_name']} {r['dtype']}"
                    found.setdefault(place, {})[r["provider"], mode] = r[number]
    return {
        place: values[of] / values[to]
        for place, values in found.items()
        if of in values and to in values
    }


def _against(
    records: Sequence[Record],
    case: str,
    of: tuple[str, str],
    to: tuple[str, str],
    target: float,
    size: int = 128,
) -> Answer | None:
    found = ratios(records, case, of, to, size=size)
    if not found:
        return None
    text = ", ".join(f"{place} {ratio:.2f}x" for place, ratio in sorted(found.items()))
    return Answer(f"{text} (target {target}x)", min(found.values()) >= target)


def _gate(records: Sequence[Record]) -> Answer | None:
    green = [r["summary"] for r in records if r.get("kind") == "gate"]
    return Answer(green[-1], True) if green else None


def _copy(records: Sequence[Record]) -> Answer | None:
    shares = {
        f"{case} {place}": share
        for case in OP_TARGETS
        for place, share in ratios(records, case, ("copy", "both"), ("fused", "both")).items()
    }
    if not shares:
        return None
    text = ", ".join(f"{place} {100 * share:.0f} %" for place, share in sorted(shares.items()))
    return Answer(text, min(shares.values()) >= COPY_SHARE)


def _memory(records: Sequence[Record]) -> Answer | None:
    of, to = ("fused", "memory"), ("eager", "memory")
    found = ratios(records, "loss_path", of, to, number="peak_bytes")
    if not found:
        return None
    text = ", ".join(f"{place} {100 * share:.0f} % of eager" for place, share in found.items())
    return Answer(text, max(found.values()) <= MEMORY_TARGET)


def _fastest(records: Sequence[Record], kind: str, name: Callable[[Record], str]) -> Answer | None:
    """Of each group of alternatives the fastest, by `name`."""
    groups: dict[str, list[Record]] = {}
    for r in records:
        if r.get("kind", "case") == kind and "p50_ms" in r:
            groups.setdefault(f"{r['case']} {r['shape_name']} {r['dtype']}", []).append(r)
    if not groups:
        return None
    best = {place: min(group, key=lambda r: r["p50_ms"]) for place, group in groups.items()}
    return Answer("; ".join(f"{p}: {name(r)}, {r['p50_ms']:.3f} ms" for p, r in best.items()))


def _sweep(records: Sequence[Record]) -> Answer | None:
    def name(r: Record) -> str:
        setting = r["setting"]
        keys = ("tile", "precision", "warps", "block_n")
        return " ".join(f"{key} {setting[key]}" for key in keys)

    return _fastest(records, "sweep", name)


def _phi(records: Sequence[Record]) -> Answer | None:
    of_phi = [r for r in records if r.get("case") == "phi" and r.get("mode") == "both"]
    return _fastest(of_phi, "case", lambda r: str(r["provider"]))


def _kernels(records: Sequence[Record]) -> Answer | None:
    found = [r for r in records if r.get("kind") == "kernel" and r["provider"] == "fused"]
    if not found:
        return None
    top = ", ".join(f"{r['name'][:40]} {100 * r['share']:.0f} %" for r in found[:5])
    return Answer(top)


def _training(records: Sequence[Record]) -> Answer | None:
    found = [r["text"] for r in records if r.get("kind") == "training"]
    return Answer("see the file of results") if found else None


Ask = Callable[[Sequence[Record]], Answer | None]


def questions() -> dict[str, Ask]:
    """What is asked -> how the records answer it; None as long as they do not."""
    fused, eager = ("fused", "both"), ("eager", "both")
    found: dict[str, Ask] = {"Are the kernels right on this GPU?": _gate}
    for case, target in OP_TARGETS.items():
        found[f"Is {case} {target} times as fast as eager?"] = partial(
            _against, case=case, of=eager, to=fused, target=target
        )
    compiled, graph = ("compiled", "both"), ("fused", "graph")
    without = "loss_path_without_phi"
    return found | {
        "Does every op reach 70 % of a copy of its bytes?": _copy,
        "Is the whole path 2.5 times as fast as eager?": lambda r: _against(
            r, "loss_path", eager, fused, PATH_EAGER
        ),
        "Is the whole path 1.3 times as fast as torch.compile?": lambda r: _against(
            r, "loss_path", compiled, fused, PATH_COMPILED
        ),
        "Is the path without φ 4 times as fast as eager?": lambda r: _against(
            r, without, eager, fused, KERNELS_EAGER
        ),
        "Is 64 x 64 as a graph 3 times as fast as plain eager?": lambda r: _against(
            r, "loss_path", eager, graph, GRAPH_TARGET, size=64
        ),
        "Do the losses take half of eager's memory?": _memory,
        "Which form of φ is the fastest?": _phi,
        "Which precision, warps and tile are the fastest?": _sweep,
        "Where does the time of the fused path go?": _kernels,
        "What does a training step of each host gain?": _training,
    }


def report(records: Sequence[Record], stages: Sequence[str], complete: Sequence[str]) -> str:
    """The page: questions answered and open, then the table of all that was measured."""
    lines = ["# What this hour answered", ""]
    if records:
        last = records[-1]
        facts = ("device", "torch", "triton", "sources", "commit", "copy_gb_per_s")
        lines += [", ".join(f"{key} {last.get(key)}" for key in facts), ""]
    answers = {question: ask(records) for question, ask in questions().items()}
    lines += [f"- {question} **{answer}**" for question, answer in answers.items() if answer]
    left = [question for question, answer in answers.items() if not answer]
    lines += ["", "## Still open", "", *(f"- {question}" for question in left or ["nothing"])]
    waiting = [name for name in stages if name not in complete]
    lines += ["", f"Stages not finished: {', '.join(waiting) or 'none'}.", ""]
    timed = [r for r in records if "shape_size" in r and r.get("kind") is None]
    if timed:
        lines += ["## All measurements", "", table(timed), ""]
    return "\n".join(lines)
