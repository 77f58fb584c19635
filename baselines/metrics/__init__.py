"""What a trained model is measured by; `baselines.evaluate` runs it all.

Every metric is one file of this folder that ends in a `SPEC`; see `baselines.metrics.spec`. The
names of all that can be asked for stand here, so that `--help` need not wait for torch.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baselines.metrics.spec import MetricSpec

# The file of every metric.
FILES = {
    "r_precision": "r_precision",
    "fid": "fid",
    "kid": "kid",
    "precision_recall": "precision_recall",
    "is": "inception_score",
    "layout": "layout",
    "graded": "graded",
    "pointing": "pointing",
    "agreement": "agreement",
    "soa": "soa",
    "counting": "counting",
    "pa": "alignment",
}
# Published FID and IS are of 30,000 images; both are biased by the number.
PUBLISHED_COUNT = 30_000
SCENES = "scenes"
# OpenAI's encoders of images and texts, by the names that they are published under.
CLIPS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
COCO_DETECTORS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
)


class Metrics(MutableMapping[str, "MetricSpec"]):
    """Metrics by name; the file of one is imported when it is first asked for."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._specs: dict[str, MetricSpec | None] = dict.fromkeys(files)

    def __getitem__(self, name: str) -> MetricSpec:
        spec = self._specs[name]
        if spec is None:
            spec = import_module(f"{__name__}.{self._files[name]}").SPEC
            self._specs[name] = spec
        return spec

    def __setitem__(self, name: str, spec: MetricSpec) -> None:
        self._specs[name] = spec

    def __delitem__(self, name: str) -> None:
        del self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __contains__(self, name: object) -> bool:
        return name in self._specs


METRICS = Metrics(FILES)
