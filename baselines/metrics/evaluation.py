"""From a run to an entry of `evaluation.json`: real, untrained and trained images, every metric."""

from __future__ import annotations

import difflib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from baselines.config import to_dict
from baselines.data import open_source
from baselines.data.scan import scan
from baselines.errors import UserError
from baselines.metrics import METRICS, PUBLISHED_COUNT
from baselines.metrics.detectors import Detector
from baselines.metrics.extractors import open_extractor, weights_hash
from baselines.metrics.image_text import ImageTextEncoder
from baselines.metrics.images import drawn_batches, real_batches, save_images
from baselines.metrics.judging import bring, independent_judge, judge
from baselines.metrics.layouts import run_layouts
from baselines.metrics.measuring import Results, Sets, measure
from baselines.metrics.pairs import fingerprint, read_pairs
from baselines.metrics.spec import (
    EvaluationContext,
    ImageSet,
    MetricError,
    MetricSpec,
)
from baselines.runs import GENERATOR, Run
from baselines.sampling.drawing import check_truncation

PACKAGES = ("torch", "torchvision", "torchmetrics", "timm", "numpy", "scipy")
REAL, TRAINED, UNTRAINED = "real", "trained", "untrained"


@dataclass(frozen=True)
class Options:
    """What to measure.

    Args:
        metrics: names of `METRICS`, None for all that can be had.
        extractors: names of `EXTRACTORS`, the features of fid, kid and is.
        weights: files of their weights, by extractor.
        images: for how many captions to draw; None for all, up to as many as are published.
        real_images: how many real images to measure and compare with; None for all.
        samples: images drawn for each caption.
        truncation: of the noise that images are drawn from, 0 for none.
        independent: a run or file of encoders that the generator was not trained with.
        batch_size: images drawn at once.
        seed: of noise, candidates, shuffles and resampling.
        class_captions: folder of published lists of captions, for SOA.
        false_captions: file of false captions, for positional alignment.
        counts: file of what captions count.
        cache: folder of the real images' features; None keeps none.
        save_images: folder to write the drawn images to.
    """

    metrics: Sequence[str] | None = None
    extractors: Sequence[str] = ("damsm",)
    weights: Mapping[str, Path] = field(default_factory=dict)
    images: int | None = None
    real_images: int | None = None
    samples: int = 1
    truncation: float = 0.0
    independent: Path | None = None
    class_captions: Path | None = None
    false_captions: Path | None = None
    counts: Path | None = None
    batch_size: int = 32
    seed: int = 0
    cache: Path | None = None
    save_images: Path | None = None

    def check(self) -> None:
        """Refuse what makes no sense before anything is opened.

        Raises:
            UserError: naming the option.
        """
        for name in ("images", "real_images", "samples", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; expected 1 or more")
        check_truncation(self.truncation)
        check_names(self.metrics or [])


def evaluate(
    run: Run,
    options: Options,
    *,
    untrained: Run | None = None,
    detector: Detector | None = None,
    encoder: ImageTextEncoder | None = None,
) -> dict[str, Any]:
    """Measure `run`.

    Args:
        run: with the generator to measure.
        options: what to measure.
        untrained: a run to measure beside it.
        detector: for SOA and counting.
        encoder: of images and texts, for positional alignment and R-precision by it.

    Returns:
        an entry of `evaluation.json` (see `baselines.metrics.record`).

    Raises:
        UserError: an option that makes no sense, or a metric or extractor that cannot be had.
    """
    options.check()
    device = next(run.generator.parameters()).device
    started = time.perf_counter()
    with torch.inference_mode():
        context, protocol = prepare(run, options, device)
        bring(context, options, detector, encoder)
        specs, left_out = choose(options.metrics, context)
        runs = {UNTRAINED: untrained, TRAINED: run}
        drawn = {name: one for name, one in runs.items() if one is not None}
        sets = real_sets(run, context, protocol, specs, options, device)
        sets += drawn_sets(drawn, context, protocol, specs, options, device)
        results = measure(sets, context, specs)
    return {
        "subject": subject(run, context),
        "protocol": protocol,
        "environment": environment(options, device),
        **describe(results, specs, context, left_out),
        "seconds": round(time.perf_counter() - started, 1),
    }


def prepare(
    run: Run, options: Options, device: torch.device
) -> tuple[EvaluationContext, dict[str, Any]]:
    """Open the test split, encode its captions once, open the extractors.

    Returns:
        the context, and the protocol of the entry.
    """
    config = run.config
    source = open_source(config.data, "test")
    if config.data.skip_broken:
        source = scan(source).skip()
    pairs = read_pairs(source, run.encoders.vocabulary, config.data.max_words)
    count = asked(options.images, len(pairs), "images", "captions that can be drawn")
    real_count = asked(options.real_images, pairs.different, "real_images", "images with a caption")
    fixed = ("name", "root", "split_file", "seed", "test_images", "max_objects", "skip_broken")
    data = {name: value for name, value in to_dict(config.data).items() if name in fixed}
    size = config.model.image_sizes[-1]
    used = sorted(set(pairs.images.tolist()))
    facts = {
        "data": data,
        "fingerprint": fingerprint(source, used),
        "split": "test",
        "size": size,
    }
    encoders = [judge("", run.encoders, pairs, device)]
    if options.independent is not None:
        words = config.data.max_words
        encoders.append(independent_judge(options.independent, source, pairs, words, device))
    context = EvaluationContext(
        source=source,
        pairs=pairs,
        size=size,
        seed=options.seed,
        encoders=encoders,
        extractors={
            name: open_extractor(name, run.encoders.image, files=options.weights, device=device)
            for name in wanted_extractors(options)
        },
        vocabulary=run.encoders.vocabulary,
        real_layouts=run_layouts(run, pairs),
        gamma=config.refine.gamma,
        reference_facts={**facts, "images": real_count},
        drawn=count,
        samples=options.samples,
        cache=options.cache,
    )
    protocol = {
        **facts,
        "images": count,
        "real_images": real_count,
        "samples": options.samples,
        "seed": options.seed,
    }
    if options.truncation:
        protocol["truncation"] = options.truncation
    return context, protocol


def asked(number: int | None, available: int, option: str, what: str) -> int:
    """Give how many to take; never more than there are, nor fewer unasked.

    Raises:
        UserError: more than `available` are asked for.
    """
    if number is None:
        return min(available, PUBLISHED_COUNT) if option == "images" else available
    if number > available:
        raise UserError(
            f"{option} is {number:,}: the split has {available:,} {what}; ask for at most that"
        )
    return number


def real_sets(
    run: Run,
    context: EvaluationContext,
    protocol: Mapping[str, Any],
    specs: Mapping[str, MetricSpec],
    options: Options,
    device: torch.device,
) -> Sets:
    """Set up the real images; their features come from the cache where it holds the same."""
    count = protocol["real_images"]
    images = ImageSet(REAL, count, real=True)
    layouts = context.real_layouts if any(spec.uses_layouts for spec in specs.values()) else None
    batches = real_batches(
        context.source, context.pairs, count=count, size=context.size,
        batch_size=options.batch_size, workers=run.config.data.workers, device=device,
        layouts=layouts,
    )  # fmt: skip
    return [(images, batches)]


def drawn_sets(
    runs: Mapping[str, Run],
    context: EvaluationContext,
    protocol: Mapping[str, Any],
    specs: Mapping[str, MetricSpec],
    options: Options,
    device: torch.device,
) -> Sets:
    """Set up the images of every generator."""
    sets: Sets = []
    layouts = any(spec.uses_layouts for spec in specs.values())
    for name, run in runs.items():
        batches = drawn_batches(
            run.generator, context.pairs, run.encoders.text, count=protocol["images"],
            batch_size=options.batch_size, seed=options.seed, device=device,
            samples=options.samples, truncation=options.truncation,
            judge=run.encoders.image if layouts else None,
        )  # fmt: skip
        if options.save_images is not None and name == TRAINED:
            batches = save_images(batches, context.source, context.pairs, options.save_images)
        sets.append((ImageSet(name, protocol["images"], options.samples), batches))
    return sets


def describe(
    results: Results,
    specs: Mapping[str, MetricSpec],
    context: EvaluationContext,
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """Give the parts of an entry that follow from the metrics."""
    rows = {}
    for row in results:
        name, _, part = row.partition("/")
        spec = specs[name]
        rows[row] = {
            "metric": name,
            "title": spec.title(part),
            "percent": spec.percent,
            "better": spec.better,
            "note": spec.note,
            "settings": dict(spec.settings(context, part)),
        }
    warnings = [
        {"metric": name, "reason": reason}
        for name, spec in specs.items()
        for reason in spec.warnings(context)
    ]
    return {
        "metrics": results,
        "rows": rows,
        "left_out": dict(left_out),
        "warnings": warnings,
    }


def subject(run: Run, context: EvaluationContext) -> dict[str, Any]:
    """Say what was measured."""
    pairs = context.pairs
    return {
        "run": str(run.directory),
        "model": run.config.model.name,
        "weights": {"file": GENERATOR, "hash": weights_hash(run.generator)},
        "encoders": {
            "text": weights_hash(run.encoders.text),
            "image": weights_hash(run.encoders.image),
        },
        "vocabulary": run.encoders.vocabulary.fingerprint,
        "legacy_mask": run.generator.legacy_mask,
        "captions": {
            "count": len(pairs),
            "order": "the first of every image, then the second, ...",
            "max_words": pairs.ids.shape[1],
            "truncated": pairs.truncated,
            "dropped": pairs.dropped,
        },
    }


def environment(options: Options, device: torch.device) -> dict[str, Any]:
    """Say what moves the last digits."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "batch_size": options.batch_size,
        "arithmetic": "float32",
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions() -> dict[str, str]:
    """Give those of the packages that the numbers depend on, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def wanted_extractors(options: Options) -> list[str]:
    """Name the extractors that a metric asked for reads; no others are opened."""
    read = options.metrics is None or any(METRICS[name].uses_features for name in options.metrics)
    return list(dict.fromkeys(options.extractors)) if read else []


def check_names(names: Sequence[str]) -> None:
    """Refuse metrics that do not exist.

    Raises:
        MetricError: naming the nearest that does.
    """
    for name in names:
        if name not in METRICS:
            nearest = difflib.get_close_matches(name, list(METRICS), n=1, cutoff=0.0)[0]
            raise MetricError(f"unknown metric {name!r}; the nearest is {nearest!r}")


def choose(
    names: Sequence[str] | None, context: EvaluationContext
) -> tuple[dict[str, MetricSpec], dict[str, str]]:
    """Give the metrics asked for, or all that can be had; and why others cannot.

    Raises:
        MetricError: one asked for by name cannot be had here.
    """
    check_names(names or [])
    reasons = {name: METRICS[name].missing(context) for name in names or METRICS}
    if names:
        for name, reason in reasons.items():
            if reason:
                raise MetricError(f"metric {name}: {reason}")
    chosen = {name: METRICS[name] for name, reason in reasons.items() if not reason}
    return chosen, {name: reason for name, reason in reasons.items() if reason}
