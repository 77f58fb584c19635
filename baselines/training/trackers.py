"""Where a run's log goes beside `stats.jsonl`: TensorBoard, trackio, wandb, each an import away."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from baselines import files
from baselines.config import Config, flat
from baselines.errors import UserError

logger = logging.getLogger(__name__)
IDENTITY = "tracker.json"


class Tracker(Protocol):
    """Something that is told every value of the log."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""

    def close(self) -> None:
        """Write out what is kept back."""


class TensorBoard:
    """Events in the folder `tensorboard` of a run; a resumed run drops what came later."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        # A module, so that torch's own import of the package is what may fail.
        board = required("torch.utils.tensorboard", "run.tensorboard=true", package="tensorboard")
        self._writer = board.SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write an event for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the file."""
        self._writer.close()


class Experiment:
    """A run of trackio or wandb, whose interfaces agree in all that is needed here.

    Where they log to, and as whom, is decided by their own environment variables. A resumed run
    goes on with the experiment it began. Training never ends because of them: one that fails is
    left out from then on, with a warning.

    Args:
        package: "trackio" or "wandb".
        config: all of it goes along; `run.project` names the project.
        run_dir: names the experiment.

    Raises:
        UserError: the package is missing, or cannot begin.
    """

    def __init__(self, package: str, config: Config, run_dir: Path) -> None:
        module = required(package, f"run.tracker={package}", package=package)
        identity = experiment_id(run_dir)
        # trackio knows a run by its name, wandb by its id.
        own = {"dir": str(run_dir), "id": identity} if package == "wandb" else {}
        try:
            self._run: Any = module.init(
                project=config.run.project,
                name=f"{run_dir.resolve().name}-{identity}",
                config=flat(config),
                resume="allow",
                **own,
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"run.tracker={package}: could not begin ({type(error).__name__}: {reason}); log "
                f"in to {package}, or leave run.tracker out"
            ) from error
        self._package = package

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over the values of a step."""
        self._attempt("log", dict(values), step=step)

    def close(self) -> None:
        """Wait until everything has arrived."""
        self._attempt("finish")

    def _attempt(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._run is None:
            return
        try:
            getattr(self._run, method)(*arguments, **options)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            logger.warning(
                "run.tracker=%s: failed (%s: %s); training goes on without it",
                self._package,
                type(error).__name__,
                reason,
            )
            self._run = None


def open_trackers(config: Config, run_dir: Path, resume_step: int) -> list[Tracker]:
    """Those that `config.run` asks for.

    Raises:
        UserError: the package of one is missing, or it cannot begin.
    """
    trackers: list[Tracker] = []
    if config.run.tensorboard:
        trackers.append(TensorBoard(run_dir, resume_step))
    if config.run.tracker:
        trackers.append(Experiment(config.run.tracker, config, run_dir))
    return trackers


def experiment_id(run_dir: Path) -> str:
    """Eight hexadecimal digits that stay with the run, also where it is moved to."""
    path = run_dir / IDENTITY
    if not path.exists():
        files.write_json(path, {"id": uuid.uuid4().hex[:8]})
    return str(files.read_json(path)["id"])


def required(module: str, setting: str, *, package: str) -> Any:
    """Import what a setting asks for.

    Raises:
        UserError: it is missing; names the package and how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"{setting} needs the {package} package: pip install {package}") from error
