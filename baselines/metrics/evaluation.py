"""From a run to a report: real, untrained and trained images through every metric."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from baselines.cli import checked_source
from baselines.config import to_dict
from baselines.data import open_source
from baselines.errors import UserError
from baselines.metrics.drawing import Shown, draw, encode_sentences, read_pairs, real
from baselines.metrics.extractors import open_extractor, weights_hash
from baselines.metrics.quality import PUBLISHED_COUNT, SPLITS
from baselines.metrics.r_precision import CANDIDATES, FOLDS
from baselines.metrics.real_layouts import real_layouts
from baselines.metrics.scores import REAL, Kind, Score, Setting, check_names, choose
from baselines.runs import GENERATOR, Run

PACKAGES = ("torch", "torchvision", "torchmetrics", "timm", "numpy", "scipy")
Results = dict[str, dict[str, dict[str, float | None]]]


@dataclass(frozen=True)
class Options:
    """What to measure.

    metrics: names of `METRICS`, None for all that can be had; extractors: names of `NAMES`, the
    features of fid and is; inception: a file with the weights; images: how many to draw, None for
    one per caption up to as many as are published; seed: of noise, candidates and shuffles.
    """

    metrics: Sequence[str] | None = None
    extractors: Sequence[str] = ("damsm",)
    inception: Path | None = None
    images: int | None = None
    batch_size: int = 32
    seed: int = 0


def evaluate(run: Run, options: Options, *, untrained: Run | None = None) -> dict[str, Any]:
    """Measure `run`, beside the `untrained` one where it is given; what it returns is plain JSON.

    Raises:
        ValueError: an option that makes no sense, or a metric or extractor that cannot be had.
    """
    for name in ("images", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected 1 or more")
    check_names(options.metrics or [])
    device = next(run.generator.parameters()).device
    started = time.perf_counter()
    with torch.inference_mode():
        setting = prepare(run, options, device)
        kinds, left_out = choose(options.metrics, setting)
        results = measure(run, untrained, setting, kinds, options.batch_size, device)
    return describe(run, setting, options, device) | {
        "seconds": round(time.perf_counter() - started, 1),
        "left_out": left_out,
        "metrics": results,
    }


def prepare(run: Run, options: Options, device: torch.device) -> Setting:
    """Open the test split, encode its captions once, open the extractors."""
    config = run.config
    skipping = config.data.skip_broken
    source = checked_source(config, "test") if skipping else open_source(config.data, "test")
    vocabulary = run.encoders.vocabulary
    pairs = read_pairs(source, vocabulary, config.data.max_words)
    count = min(options.images or PUBLISHED_COUNT, len(pairs))
    real_count, size = min(count, pairs.different), config.model.image_sizes[-1]
    if options.inception and {"inception-2015", "torchvision-imagenet"} <= set(options.extractors):
        raise UserError("one file of weights cannot serve two Inceptions; measure them in turn")
    extractors = {
        name: open_extractor(name, run.encoders.image, file=options.inception, device=device)
        for name in dict.fromkeys(options.extractors)
    }
    fixed = ("name", "root", "split_file", "seed", "test_images", "max_objects", "skip_broken")
    data = {name: value for name, value in to_dict(config.data).items() if name in fixed}
    return Setting(
        source=source,
        pairs=pairs,
        sentences=encode_sentences(pairs, run.encoders.text, device),
        count=count,
        real_count=real_count,
        size=size,
        seed=options.seed,
        extractors=extractors,
        facts={"data": data, "split": "test", "images": real_count, "size": size},
        cache=run.directory,
    )


def measure(
    run: Run,
    untrained: Run | None,
    setting: Setting,
    kinds: Mapping[str, Kind],
    batch_size: int,
    device: torch.device,
) -> Results:
    """Every metric of the real, the untrained and the trained images: row -> images -> score."""
    text, image = run.encoders.text, run.encoders.image
    layouts = real_layouts(run) if "localisation" in kinds else None
    sets: list[tuple[str, int, Iterable[Shown]]] = [
        (
            REAL,
            setting.real_count,
            real(
                setting.source, setting.pairs, text, image, count=setting.real_count,
                size=setting.size, batch_size=batch_size, workers=run.config.data.workers,
                device=device, layouts=layouts,
            ),
        )
    ]  # fmt: skip
    for name, drawn in (("untrained", untrained), ("trained", run)):
        if drawn is not None:
            images = draw(
                drawn.generator, setting.pairs, text, image, count=setting.count,
                batch_size=batch_size, seed=setting.seed, device=device,
            )  # fmt: skip
            sets.append((name, setting.count, images))
    results: Results = {}
    for name, count, images in sets:
        metrics = [kind.start(setting, name) for kind in kinds.values()]
        with tqdm(total=count, unit="img", desc=f"{name} images", dynamic_ncols=True) as bar:
            for shown in images:
                for metric in metrics:
                    metric.update(shown)
                bar.update(len(shown.rows))
        for metric in metrics:
            for row, score in metric.scores().items():
                results.setdefault(row, {})[name] = plain(score)
    return results


def plain(score: Score) -> dict[str, float | None]:
    """A score as JSON has it, where there is no NaN."""
    values = asdict(score).items()
    return {k: None if v is None or not math.isfinite(v) else v for k, v in values}


def describe(run: Run, setting: Setting, options: Options, device: torch.device) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    pairs, cuda = setting.pairs, device.type == "cuda"
    return {
        "run": str(run.directory),
        "model": run.config.model.name,
        "weights": {"file": GENERATOR, "hash": weights_hash(run.generator)},
        "encoders": {
            "text": weights_hash(run.encoders.text),
            "image": weights_hash(run.encoders.image),
        },
        "vocabulary": run.encoders.vocabulary.fingerprint,
        "data": {**setting.facts["data"], "split": "test", "size": setting.size},
        "images": setting.count,
        "real_images": setting.real_count,
        "captions": {
            "count": len(pairs),
            "order": "the first of every image, then the second, ...",
            "max_words": pairs.ids.shape[1],
            "truncated": pairs.truncated,
            "dropped": pairs.dropped,
        },
        "legacy_mask": run.generator.legacy_mask,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "r_precision": {"candidates": CANDIDATES, "folds": FOLDS},
        "inception_score": {"splits": SPLITS},
        "extractors": {name: asdict(e.provenance) for name, e in setting.extractors.items()},
        "arithmetic": "float32",
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions() -> dict[str, str]:
    """Of the packages that the numbers depend on, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
