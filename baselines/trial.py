"""A training step on random images and captions: what it takes, before there is any data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from baselines.config import Config
from baselines.data.loader import Batch
from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary
from baselines.estimate import readable, steps
from baselines.hosts import find_host
from baselines.networks.encoders import build_image_encoder, build_text_encoder
from baselines.runs import Encoders
from baselines.training.distributed import World
from baselines.training.loop import Objective, run_step
from baselines.training.terms import Term

# Past every start and ramp, so that all terms are at work.
FIRST_STEP = 1_000_001
STEPS, SECONDS = 5, 20.0


def words_of_scenes() -> Vocabulary:
    """The words that stand for those of data that nobody has yet."""
    return Vocabulary.build(Scenes.vocabulary_captions())


def untrained_encoders(config: Config) -> Encoders:
    """Encoders of the settings of `config` with random weights, and the words of scenes."""
    vocabulary = words_of_scenes()
    settings = replace(config.encoder, pretrained=False)
    return Encoders(
        build_text_encoder(settings, len(vocabulary)),
        build_image_encoder(settings),
        vocabulary,
        settings,
    )


def random_batch(config: Config, world: World, *, vocabulary: int, size: int, rows: int) -> Batch:
    """Images and captions that cost what real ones do, on the world's device.

    Args:
        config: how long captions are, and whether the host looks at wrong images.
        world: this process's device.
        vocabulary: how many words there are.
        size: of the images, in pixels a side.
        rows: images of the batch.
    """
    rng = torch.Generator().manual_seed(0)
    words = config.data.max_words
    ids = torch.randint(1, vocabulary, (rows, words), generator=rng)
    wrong = find_host(config.model.name).wrong_images
    batch = Batch(
        images=torch.rand(rows, 3, size, size, generator=rng) * 2 - 1,
        wrong_images=torch.rand(rows, 3, size, size, generator=rng) * 2 - 1 if wrong else None,
        captions=ids,
        lengths=torch.randint(words // 2, words + 1, (rows,), generator=rng),
        class_ids=torch.arange(rows),
        keys=tuple(map(str, range(rows))),
        caption_indices=torch.zeros(rows, dtype=torch.int64),
    )
    return batch.to(world.device)


def step_sizes(config: Config, command: str) -> tuple[int, int, int]:
    """(batches of a step, images of a batch, their side in pixels) of a training by `command`."""
    if command == "damsm":
        return 1, config.encoder.batch_size, config.encoder.input_size
    largest = config.model.image_sizes[-1]
    if command == "stream":
        return 1, config.stream.batch_size, largest
    return config.optim.accumulate, config.optim.batch_size, largest


def trial_step(
    objective: Objective, config: Config, world: World, *, vocabulary: int, command: str = "train"
) -> Callable[[int], None]:
    """A training step of `objective` on a random batch, called with 0, 1, 2, ...

    `command` is the one whose step it is: "train", "damsm" or "stream".
    """
    batches, rows, size = step_sizes(config, command)
    parts = [random_batch(config, world, vocabulary=vocabulary, size=size, rows=rows)] * batches
    scaler = torch.amp.GradScaler(world.device.type, enabled=config.optim.amp == "fp16")

    def logged(number: int, terms: Sequence[Term]) -> None:
        """Nobody reads them."""

    def step(number: int) -> None:
        run_step(objective, parts, FIRST_STEP + number, scaler, world, logged)

    return step


def expected_time(
    objective: Objective, config: Config, world: World, *, vocabulary: int, command: str = "train"
) -> str:
    """A line that says how long a training by `command` takes here, from a few steps that are run.

    The first one, in which libraries choose their algorithms, does not count. Loading images,
    pictures, validations and evaluations come on top.
    """
    step = trial_step(objective, config, world, vocabulary=vocabulary, command=command)
    step(0)
    wait(world)
    start, made = time.perf_counter(), 0
    while made < STEPS and time.perf_counter() - start < SECONDS:
        made += 1
        step(made)
        wait(world)
    seconds = (time.perf_counter() - start) / made
    where, peak = f"cpu with {torch.get_num_threads()} threads", ""
    if world.device.type == "cuda":
        where = torch.cuda.get_device_name(world.device)
        peak = f", {readable(torch.cuda.max_memory_allocated(world.device))} at its peak"
    return (
        f"time, without loading images: {duration(seconds * steps(config, command))}, from {made} "
        f"steps of {seconds:.3g} s on {where}{peak}"
    )


def wait(world: World) -> None:
    """Until the device has done what it was told."""
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: "42 s", "83 min", "25.0 h", "11.6 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 120 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
