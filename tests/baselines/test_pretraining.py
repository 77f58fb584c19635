"""What the pre-training commands share: the best networks are kept, the last ones too."""

import pytest
import torch

from baselines.pretraining import LAST, Validation

VALUES = [0.4, 0.7, 0.7, 0.1]


def validation(folder, values, **options):
    measures = iter(values)

    def save(path, **facts):
        torch.save({"facts": facts}, path)

    return Validation(
        lambda: {"score": next(measures)}, save, score="score", best=folder / "best.pt", **options
    )


def step_in(path):
    return torch.load(path)["facts"]["step"]


@pytest.mark.parametrize(("lower_is_better", "best"), [(False, 1), (True, 3)])
def test_the_first_of_the_best_and_the_last_are_kept(lower_is_better, best, tmp_path):
    hook = validation(tmp_path, VALUES, lower_is_better=lower_is_better)
    logged = [hook(step, 8 * step) for step in range(len(VALUES))]
    assert logged == [{"validation/score": value} for value in VALUES]
    assert step_in(tmp_path / "best.pt") == best
    assert step_in(tmp_path / LAST) == 3


def test_who_goes_on_knows_the_best(tmp_path):
    validation(tmp_path, [0.7])(1, 8)
    again = validation(tmp_path, [0.5, 0.9])
    again(2, 16)
    assert step_in(tmp_path / "best.pt") == 1
    again(3, 24)
    assert step_in(tmp_path / "best.pt") == 3
