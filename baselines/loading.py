"""How the images of a configuration are loaded: from the cache of decoded ones, and how fast."""

from __future__ import annotations

import time

from baselines.cli import training_batches
from baselines.config import Config
from baselines.data import DataError, Source, open_source
from baselines.data.cache import cached, estimated
from baselines.data.workers import AHEAD
from baselines.hosts import find_host
from baselines.training.distributed import World, pick_device
from baselines.trial import step_sizes, wait, words_of_scenes

# What training by a command decodes: pre-training validates on held-out images.
SPLITS_READ = {"train": ("train",), "damsm": ("train", "test"), "stream": ("train", "test")}
SECONDS = 5.0  # over which the rate is measured


def with_cache(config: Config, source: Source, command: str) -> Source:
    """A source of `checked_source` as training by `command` reads it: see `data.cache`.

    Raises:
        DataError: the images are in no files, or there is no room for them.
    """
    if not config.data.cache:
        return source
    return cached(source, config.data, step_sizes(config, command)[-1])


def cache_summary(config: Config, command: str) -> str:
    """What the cache of decoded images takes, a line for each split that `command` reads.

    Raises:
        DataError: the data set is missing, or its images are in no files.
    """
    size = step_sizes(config, command)[-1]
    sources = [open_source(config.data, split) for split in SPLITS_READ[command]]
    return "\n".join(
        f"cache of {len(source):,} decoded {source.split} images at {size} px: "
        f"{estimated(source, config.data, size)}"
        for source in sources
    )


def loading_rate(config: Config, command: str) -> str:
    """A line that says how many images a second one process loads for `command` here.

    Those of the training split, as training draws them, on their way to the device. What the system
    keeps in memory of the files after they were read once counts as it does in training. The cache
    of `data.cache` is read where it is filled, and never filled.

    Raises:
        DataError: an image cannot be read, or the data set is incomplete.
    """
    try:
        source, how = open_source(config.data, "train"), ""
    except DataError:
        if config.data.root:
            raise
        return "loading: not measured, data.root is empty"
    _, rows, size = step_sizes(config, command)
    if config.data.cache:
        plain, source = source, cached(source, config.data, size, fill=False)
        how = ", decoded: the cache is not filled yet" if source is plain else ", from the cache"
    world = World(device=pick_device(config.run.device))
    wrong = command == "train" and find_host(config.model.name).wrong_images
    batches = training_batches(
        config, source, words_of_scenes(), world, size=size, batch_size=rows, wrong_images=wrong
    )
    loader, workers = iter(batches(0)), config.data.workers
    # What the processes have ready before the clock starts does not count.
    for _ in range(1 + AHEAD * workers):
        next(loader)
    start, loaded = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        loaded += len(next(loader))
    wait(world)
    rate = loaded / (time.perf_counter() - start)
    return f"loading: {rate:,.0f} images/s at {size} px with data.workers={workers}{how}"
