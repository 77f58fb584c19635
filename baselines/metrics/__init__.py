"""What a trained model is measured by; `baselines.evaluate` runs it all.

Every metric is one file of this folder that ends in a `SPEC`; see `baselines.metrics.spec`.
"""

from __future__ import annotations

from importlib import import_module

from baselines.metrics.spec import MetricSpec

FILES = (
    "r_precision",
    "fid",
    "kid",
    "precision_recall",
    "inception_score",
    "layout",
    "graded",
    "pointing",
    "agreement",
    "soa",
)

_specs: list[MetricSpec] = [import_module(f"{__name__}.{file}").SPEC for file in FILES]
METRICS: dict[str, MetricSpec] = {spec.name: spec for spec in _specs}
