"""The model card of a published run: what it is, how it was trained, what it measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines import hub
from baselines.data import SOURCES
from baselines.hosts import find_host
from baselines.metrics.extractors import weights_hash
from baselines.metrics.record import RESULT, load_entries
from baselines.metrics.report import markdown, table
from baselines.runs import Run

PROJECT = "https://github.com/alr-layers/alr-layers"
TASK = "text-to-image"
SUBJECT = "trained"  # the published weights among the sets of images of an evaluation

CARD = """---
{metadata}
---

# {title}

{summary} Trained with [alr-layers]({project}).

## Use

In a clone of [alr-layers]({project}), after `pip install -e '.[baselines]'`:

```python
import baselines

pipeline = baselines.load("{place}")
images = pipeline(["a caption"], seed=0, samples=4)  # PIL images
```

The files are JSON and safetensors: opening them runs no code. Each carries a checksum, which is
verified.

## Training

{training}

All settings are in `config.json`.

## Measured

{measured}

## Licence

{licence}
"""


def entries_of(run: Run) -> list[dict[str, Any]]:
    """What was measured of the very weights of `run`, oldest first.

    Raises:
        UserError: `evaluation.json` is something else.
    """
    own = weights_hash(run.generator)
    return [
        entry
        for entry in load_entries(run.directory / RESULT)
        if entry.get("subject", {}).get("weights", {}).get("hash") == own
    ]


def model_card(
    run: Run, *, place: str, licence: str, images: int | None, entries: Sequence[Mapping[str, Any]]
) -> str:
    """The text of README.md, with the Hub's metadata at its head.

    Args:
        run: the published model.
        place: what `baselines.load` is called with.
        licence: the Hub's identifier of the licence, such as "mit".
        images: seen in training, where that is known.
        entries: of `evaluation.json`, of these weights.
    """
    model, data = run.config.model, run.config.data
    size = model.image_sizes[-1]
    return CARD.format(
        metadata=metadata(run, place, licence, entries),
        title=f"{model.name} on {data.name}, {size} × {size}",
        summary=find_host(model.name).summary,
        project=PROJECT,
        place=place,
        training="\n".join(markdown([["", ""], *facts(run, images)])),
        measured="\n\n".join(map(measured, entries)) or "Not measured.",
        licence=f"`{licence}`. The weights are made of the data set named above, which has terms "
        "of its own.",
    )


def metadata(run: Run, place: str, licence: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """YAML as the Hub reads it: licence, task, tags, and every measured number."""
    library = hub.library(f"{place}: the model card")
    results = [
        library.EvalResult(
            task_type=TASK,
            dataset_type=run.config.data.name,
            dataset_name=run.config.data.name,
            dataset_split=entry["protocol"].get("split"),
            metric_type=row,
            metric_name=title,
            metric_value=value,
        )
        for entry in entries[-1:]
        for row, title, value in numbers(entry)
    ]
    data = library.ModelCardData(
        license=licence,
        library_name="alr-layers",
        pipeline_tag=TASK,
        tags=[TASK, "gan", run.config.model.name, *run.config.refine.names],
        model_name=Path(place).name,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(row, title, value) of all that an entry knows of the published weights."""
    for row, scores in entry["metrics"].items():
        value = scores.get(SUBJECT, {}).get("value")
        if value is not None:
            yield row, entry["rows"][row]["title"], value


def facts(run: Run, images: int | None) -> list[list[str]]:
    """What a reader asks first, as rows of a table."""
    config = run.config
    parameters = sum(parameter.numel() for parameter in run.generator.parameters())
    rows = [
        ["host", config.model.name],
        ["layout refinement", config.refine.terms or "none"],
        ["data", f"{config.data.name} ({SOURCES[config.data.name].summary})"],
        ["images drawn, px", ", ".join(map(str, config.model.image_sizes))],
        ["words", f"{len(run.encoders.vocabulary):,}, {config.data.max_words} of a caption"],
        ["generator", f"{parameters:,} parameters"],
        ["batch on one process", str(config.optim.batch_size * config.optim.accumulate)],
        ["seed", str(config.run.seed)],
    ]
    if images is not None:
        rows.insert(6, ["images seen", f"{images:,}"])
    return rows


def measured(entry: Mapping[str, Any]) -> str:
    """One evaluation: its table, and what must be known to compare it."""
    protocol = entry["protocol"]
    known = ("split", "size", "samples", "seed", "truncation", "fingerprint")
    told = ", ".join(f"{name} {protocol[name]}" for name in known if name in protocol)
    return f"{table(entry)}\n\nProtocol: {told}."
