"""What a snapshot is worth: graded layout at every mark, every metric at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from baselines.data import open_source
from baselines.data.scenes import Scenes
from baselines.json_lines import append_line, read_lines
from baselines.metrics.evaluation import Options, evaluate
from baselines.metrics.graded import Graded, graded_rows, graded_scores
from baselines.metrics.images import drawn_batches
from baselines.metrics.pairs import read_pairs
from baselines.runs import Run, load_run
from benchmarks.ablation.plan import MEASURES
from benchmarks.ablation.runs import AblationRun, marks, times
from benchmarks.ablation.variants import SIZES

BATCH = 50
# Between the marks that are compared, place needs only to be known well enough to tell when it
# passes a threshold.
FEW = 1_000
COMPARED = (9_000, 18_000, 36_000)


def measure_run(run: AblationRun, root: Path) -> None:
    """Append a line to the run's measures for every snapshot that has none yet."""
    directory, size = root / run.name, SIZES[run.size]
    path = directory / MEASURES
    done = {line["images"] for line in read_lines(path)}
    seconds = times(directory)
    found = marks(run, root)
    for images, snapshot in found:
        if images in done:
            continue
        last = images == found[-1][0]
        compared = last or any(abs(images - mark) < size.every / 2 for mark in COMPARED)
        loaded = load_run(directory, weights=str(snapshot.relative_to(directory)))
        entry: dict[str, Any] = {
            **asdict(run),
            "images": images,
            "cpu_seconds": seconds.get(images),
            **graded(loaded, size.captions if compared else min(FEW, size.captions)),
        }
        if last:
            entry["evaluation"] = evaluation(loaded, size.captions, root / run.encoders)
        append_line(path, entry)


@torch.inference_mode()
def graded(run: Run, captions: int) -> dict[str, Any]:
    """Graded layout of images drawn for the first `captions` held-out captions."""
    source = open_source(run.config.data, "test")
    assert isinstance(source, Scenes)
    pairs = read_pairs(source, run.encoders.vocabulary, run.config.data.max_words)

    def rows() -> Iterator[Graded]:
        for batch in drawn_batches(
            run.generator,
            pairs,
            run.encoders.text,
            count=captions,
            batch_size=BATCH,
            seed=0,
            device=torch.device("cpu"),
        ):
            stated = [
                source.described(int(pairs.images[row]))[int(pairs.captions[row])]
                for row in batch.rows.tolist()
            ]
            yield from graded_rows(batch.images, stated)

    return {"captions": captions, "graded": graded_scores(rows())}


def evaluation(run: Run, captions: int, cache: Path) -> dict[str, float | None]:
    """The other metrics at the end of a run, by row."""
    options = Options(
        metrics=["layout", "fid", "kid", "r_precision", "pointing"],
        images=captions,
        real_images=captions,
        batch_size=BATCH,
        cache=cache,
    )
    results = evaluate(run, options)["metrics"]
    return {
        row: scores["trained"]["value"] for row, scores in results.items() if "trained" in scores
    }
