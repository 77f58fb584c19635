"""Made-up features for the tests of distances."""

import torch

from baselines.metrics.features import Provenance, Statistics

DAMSM = Provenance("damsm", "aa", "plain")


def statistics(features, provenance=DAMSM, parts=3, images=None):
    made = Statistics(provenance, features.shape[1], images or {"split": "test"})
    for part in features.chunk(parts):
        made.update(part)
    return made


def cloud(count, dimension, seed):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimension, dimension, generator=g, dtype=torch.float64)
    return torch.randn(count, dimension, generator=g, dtype=torch.float64) @ mix
