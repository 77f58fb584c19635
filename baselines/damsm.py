"""Pre-train DAMSM's encoders: `python -m baselines.damsm --preset demo --run-dir DIR`.

The text and the image encoder learn to match captions with images (baselines_spec 6.2 and 8.1).
Every epoch the validation split's retrieval recall is measured; `encoders.pt` holds the best epoch,
`last.pt` the last. Calling it again with the same run directory goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from baselines.cli import (
    add_config_options,
    add_resume_option,
    checked_source,
    print_config,
    resolve,
    run_command,
    training_batches,
)
from baselines.config import Config, save_config
from baselines.data import build_vocabulary
from baselines.data.loader import Batch, evaluation_loader
from baselines.data.source import Source
from baselines.errors import UserError
from baselines.hosts.models import build_image_encoder, build_text_encoder, preset
from baselines.metrics.retrieval import retrieval
from baselines.runs import (
    CONFIG,
    ENCODERS,
    NEWEST,
    VOCABULARY,
    Encoders,
    held,
    newest_state,
    origin,
    require_same_start,
    save_encoders,
)
from baselines.training import distributed
from baselines.training.checkpoint import load_torch
from baselines.training.distributed import World, step_seed
from baselines.training.loop import Phase, train
from baselines.training.recorder import Hook
from baselines.training.terms import Captions, damsm_terms

logger = logging.getLogger(__name__)
LAST = "last.pt"
SCORE = "text_to_image/R@5"


class DAMSMObjective:
    """Both encoders under the word and sentence losses, one optimiser."""

    def __init__(
        self,
        config: Config,
        encoders: Encoders,
        epoch_images: int,
        world: World,
        *,
        step_images: int,
    ) -> None:
        self.config, self.world = config, world
        self.epoch_images, self.step_images = epoch_images, step_images
        self.text = encoders.text.to(world.device)
        self.image = encoders.image.to(world.device)
        self.networks = {"text": self.text, "image": self.image}
        trained = [p for p in self.image.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            [*self.text.parameters(), *trained], lr=config.encoder.lr, betas=(0.5, 0.999)
        )
        self.phases = [
            Phase(
                "DAMSM",
                self.optimizer,
                self.loss,
                clip=config.encoder.clip,
                clipped=list(self.text.parameters()),
            )
        ]

    def begin(self, batch: Batch, number: int, part: int = 0) -> Batch:
        """Set the mode, the step's dropout and the epoch's learning rate."""
        self.text.train()
        self.image.train()
        stream = self.world.rank + self.world.size * part
        torch.manual_seed(step_seed(self.config.run.seed, number, stream))
        seen = (number - 1) * self.step_images
        decay = max(0.1, self.config.encoder.lr_decay ** (seen // self.epoch_images))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.encoder.lr * decay
        return batch

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Word and sentence losses in both directions, unweighted."""
        text = self.text(batch.captions, batch.lengths_cpu)
        captions = Captions(text.sentence, text.words, batch.lengths, batch.class_ids)
        terms = damsm_terms(self.image, batch.images, captions, self.config.loss, self.world)
        return {"total": terms["damsm_words"] + terms["damsm_sentence"], **terms}

    def after(self, number: int) -> None:
        """Nothing to average."""


@torch.inference_mode()
def validate(
    encoders: Encoders, source: Source, config: Config, device: torch.device
) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions over a whole split, without augmentation."""
    encoders.text.eval()
    encoders.image.eval()
    codes, sentences, image_of = [], [], []
    index_of: dict[str, int] = {}
    loader = evaluation_loader(
        source,
        encoders.vocabulary,
        size=config.encoder.input_size,
        max_words=config.data.max_words,
        batch_size=config.encoder.batch_size,
        workers=config.data.workers,
    )
    for batch in loader:
        # Captions of one image follow each other: it is encoded with the first of them.
        new = [row for row, key in enumerate(batch.keys) if key not in index_of]
        new = [row for row in new if batch.keys.index(batch.keys[row]) == row]
        for row in new:
            index_of[batch.keys[row]] = len(index_of)
        if new:
            codes.append(encoders.image(batch.images[new].to(device)).code)
        text = encoders.text(batch.captions.to(device), batch.lengths_cpu)
        sentences.append(text.sentence)
        image_of.extend(index_of[key] for key in batch.keys)
    return retrieval(torch.cat(codes), torch.cat(sentences), image_of)


class Validation:
    """Measures recall and keeps the best and the last encoders."""

    def __init__(
        self, encoders: Encoders, source: Source, config: Config, run_dir: Path, world: World
    ) -> None:
        self.encoders, self.source, self.config = encoders, source, config
        self.run_dir, self.device = run_dir, world.device
        best = run_dir / ENCODERS
        known = load_torch(best).get("facts", {}) if best.exists() else {}
        self.best = float(known.get(SCORE, -1.0))

    def __call__(self, step: int, images: int) -> dict[str, float]:
        """Measure, save, and return the recalls for the log."""
        recalls = validate(self.encoders, self.source, self.config, self.device)
        facts = {"step": step, "images": images, **recalls}
        save_encoders(self.encoders, self.run_dir / LAST, **facts)
        if recalls[SCORE] > self.best:
            self.best = recalls[SCORE]
            save_encoders(self.encoders, self.run_dir / ENCODERS, **facts)
        return {f"validation/{name}": value for name, value in recalls.items()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m baselines.damsm", description=__doc__)
    parser.add_argument("--preset", default="scenes", help="cub, coco, scenes or demo")
    parser.add_argument("--run-dir", type=Path, required=True)
    add_resume_option(parser)
    parser.add_argument(
        "--image-weights", type=Path, help="ImageNet weights of the trunk as a local file"
    )
    add_config_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    args = parse(argv)
    config = resolve(preset("attngan", args.preset), args)
    if config.encoder.images <= 0:
        raise UserError("encoder.images is 0: set how many images to train on")
    if args.dry_run:
        print_config(config)
        return
    with distributed.started(config.run.device) as world, held(args.run_dir, world):
        run(config, args.run_dir, args.image_weights, world, args.resume)


def run(
    config: Config, run_dir: Path, image_weights: Path | None, world: World, resume: str = NEWEST
) -> None:
    """Train the encoders of `config` in `run_dir`, from its newest checkpoint if there is one."""
    source, held_out = checked_source(config, "train"), checked_source(config, "test")
    vocabulary = build_vocabulary(source, config.data.min_count)
    saved = newest_state(config, run_dir, vocabulary, resume=resume)
    trained_on = origin(source)
    require_same_start(config, run_dir, saved, trained_on, world)
    batch_size = distributed.share_of_batch(saved, config.encoder.batch_size, 1, world)
    torch.manual_seed(config.run.seed)
    encoders = Encoders(
        build_text_encoder(config.encoder, len(vocabulary)),
        build_image_encoder(config.encoder, fetch=saved is None, weights_file=image_weights),
        vocabulary,
        dataclasses.replace(config.encoder, pretrained=False),
    )
    step_images = batch_size * world.size
    objective = DAMSMObjective(config, encoders, len(source), world, step_images=step_images)
    for network in objective.networks.values():
        distributed.broadcast(network, world)
    if world.is_main:
        save_config(config, run_dir / CONFIG)
        vocabulary.save(run_dir / VOCABULARY)
    epoch_steps = max(1, len(source) // step_images)
    validation = Validation(encoders, held_out, config, run_dir, world)
    batches = training_batches(
        config,
        source,
        vocabulary,
        world,
        size=config.encoder.input_size,
        batch_size=batch_size,
    )
    progress = train(
        objective,
        batches,
        config,
        run_dir,
        world,
        total_images=config.encoder.images,
        batch_size=batch_size,
        hooks=[Hook(epoch_steps, validation)],
        saved=saved,
        extra={"vocabulary": vocabulary.to_dict(), "origin": trained_on},
    )
    if world.is_main:
        logger.info(
            "%d steps, %d images, best %s %.3f: %s",
            progress.step,
            progress.images,
            SCORE,
            validation.best,
            run_dir / ENCODERS,
        )


if __name__ == "__main__":
    run_command(main)
