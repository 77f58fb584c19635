"""Runs opened to be shown side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines.data.source import Source
from baselines.errors import UserError
from baselines.metrics.comparison import names_of
from baselines.sampling.held_out import test_source
from baselines.sampling.pipeline import Pipeline, load

# Told apart by people who see colours differently too (Okabe and Ito); grey is for real images.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Subject:
    """A run, the name it is shown under, and its colour in charts (CSS)."""

    name: str
    pipeline: Pipeline
    colour: str

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.pipeline.run.directory


def open_subjects(paths: Sequence[Path], device: str) -> tuple[list[Subject], Source]:
    """Open runs, and the test split that all of them have.

    Raises:
        UserError: a run twice, too many, or runs of different data; a run that cannot be opened.
    """
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UserError("a run is named twice: name each once")
    if len(paths) > len(COLOURS):
        raise UserError(f"{len(paths)} runs: at most {len(COLOURS)} can be told apart on one page")
    subjects = [
        Subject(name, load(path, device=device), colour)
        for name, path, colour in zip(names_of(paths), paths, COLOURS, strict=False)
    ]
    source, *others = (test_source(subject.pipeline) for subject in subjects)
    for subject, other in zip(subjects[1:], others, strict=True):
        if other.fingerprint != source.fingerprint:
            raise UserError(
                f"{subject.directory} has other test data ({other!r}) than {subjects[0].directory} "
                f"({source!r}): show runs of the same data together"
            )
    return subjects, source
