"""The loop over sets of images: every batch passes every metric once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from baselines.metrics.features import FeatureSet
from baselines.metrics.images import ImageBatch
from baselines.metrics.record import plain
from baselines.metrics.spec import EvaluationContext, ImageSet, Metric, MetricSpec

Sets = list[tuple[ImageSet, Iterable[ImageBatch]]]
Results = dict[str, dict[str, dict[str, Any]]]


def measure(
    sets: Sets,
    context: EvaluationContext,
    specs: Mapping[str, MetricSpec],
    *,
    quiet: bool = False,
) -> Results:
    """Give every metric of every set of images: row → set → score. Real images come first.

    Args:
        sets: what to measure.
        context: what the metrics share.
        specs: the metrics by name.
        quiet: without a progress bar.
    """
    results: Results = {}
    for images, batches in sets:
        used = {name: spec for name, spec in specs.items() if _applies(spec, images)}
        metrics = {name: spec.start(context, images) for name, spec in used.items()}
        wanted = _features_wanted(images, context, used)
        if wanted or any(not spec.uses_features for spec in used.values()):
            _gather(images, batches, context, wanted, metrics, used, quiet)
        if images.real:
            context.reference |= images.features
            _keep(context, wanted)
        for metric in metrics.values():
            for row, score in metric.scores().items():
                results.setdefault(row, {})[images.name] = plain(score)
    return {row: results[row] for row in sorted(results, key=partial(_place, list(specs)))}


def _place(specs: list[str], row: str) -> tuple[int, bool]:
    """Rows in the order of the metrics, those of equal numbers behind the whole."""
    return specs.index(row.split("/")[0]), row.endswith("/equal")


def _applies(spec: MetricSpec, images: ImageSet) -> bool:
    return (spec.real or not images.real) and (spec.uses_features or images.paired)


def _features_wanted(
    images: ImageSet, context: EvaluationContext, specs: Mapping[str, MetricSpec]
) -> list[str]:
    """Name the extractors that must look at a set; cached features of real images are taken."""
    if not any(spec.uses_features for spec in specs.values()):
        return []
    wanted = []
    for name, extractor in context.extractors.items():
        saved = _cached(context, name) if images.real else None
        if saved is None:
            images.features[name] = FeatureSet(extractor.provenance, context.reference_facts)
            wanted.append(name)
        else:
            images.features[name] = saved
    return wanted


def _gather(
    images: ImageSet,
    batches: Iterable[ImageBatch],
    context: EvaluationContext,
    wanted: Sequence[str],
    metrics: Mapping[str, Metric],
    specs: Mapping[str, MetricSpec],
    quiet: bool,
) -> None:
    total = images.pairs * images.samples
    name = f"{images.name} images"
    with tqdm(total=total, unit="img", desc=name, dynamic_ncols=True, disable=quiet) as bar:
        for batch in batches:
            if batch.sample == 0:
                for name in wanted:
                    images.features[name].add(*batch.features(context.extractors[name]))
            for name, metric in metrics.items():
                if batch.sample == 0 or specs[name].all_samples:
                    metric.update(batch)
            bar.update(len(batch.rows))


def _cached(context: EvaluationContext, name: str) -> FeatureSet | None:
    path = _cache_path(context, name)
    if path is None or not path.is_file():
        return None
    saved = FeatureSet.load(path)
    same = saved.provenance == context.extractors[name].provenance
    return saved if same and saved.facts == dict(context.reference_facts) else None


def _keep(context: EvaluationContext, names: Sequence[str]) -> None:
    for name in names:
        path = _cache_path(context, name)
        if path is not None and context.reference[name].count > 1:
            context.reference[name].save(path)


def _cache_path(context: EvaluationContext, name: str) -> Path | None:
    return None if context.cache is None else context.cache / f"reference-{name}.npz"
