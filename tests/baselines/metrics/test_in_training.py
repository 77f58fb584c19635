import math
import random

import numpy as np
import pytest
import torch

from baselines import train
from baselines.errors import UserError
from baselines.metrics.evaluation import Options
from baselines.metrics.in_training import BEST, TrainingEvaluation, best_so_far
from baselines.runs import GENERATOR, Run, load_run
from baselines.training.checkpoint import load_weights
from baselines.training.recorder import Hook
from tests.baselines.commands import differences, stats_of, train_tiny
from tests.support.tiny_run import make_tiny_run

ASKED = Options(metrics=["graded", "r_precision", "fid"], images=8, batch_size=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


def test_training_is_the_same_to_the_bit_with_and_without(tmp_path, encoders, monkeypatch):
    settings = ("data.test_images=12", "run.log_every=1")
    plain = train_tiny("attngan", tmp_path / "plain", encoders, 4, *settings)
    build = train.build_hooks
    measured = []

    def hooks(config, run_dir, own, objective):
        run = Run(run_dir, config, own, objective.average.network)
        evaluation = TrainingEvaluation(run, ASKED, best="graded/place")

        def watched(step, images):
            measured.append(evaluation(step, images))
            return measured[-1]

        return [*build(config, run_dir, own, objective), Hook(1, watched)]

    monkeypatch.setattr(train, "build_hooks", hooks)
    beside = train_tiny("attngan", tmp_path / "measured", encoders, 4, *settings)
    assert len(measured) == 4 and "evaluation/graded/place" in measured[0]
    changed = [name for name in differences(plain, beside) if not name.startswith("/config")]
    assert changed == []
    terms = [
        {name: value for name, value in line.items() if not name.startswith("evaluation/")}
        for line in stats_of(tmp_path / "measured")
    ]
    assert [line for line in terms if len(line) > 1] == stats_of(tmp_path / "plain")


def test_modes_and_random_states_are_put_back(tiny):
    run = load_run(tiny)
    run.generator.train()
    run.encoders.text.train()
    run.generator.stages[0].eval()
    modes = [m.training for m in run.generator.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    weights = {name: value.clone() for name, value in run.generator.state_dict().items()}
    evaluation = TrainingEvaluation(run, ASKED)
    first, second = evaluation(1, 8), evaluation(2, 16)
    assert first == second and all(math.isfinite(value) for value in first.values())
    assert [m.training for m in run.generator.modules()] == modes
    assert run.encoders.text.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
    assert not differences(weights, run.generator.state_dict())


@pytest.mark.parametrize(("row", "better"), [("fid/damsm", "lower"), ("graded/colour", "higher")])
def test_the_best_by_a_named_row_is_kept_also_over_a_resume(tiny, row, better):
    values = []
    run = load_run(tiny)
    (run.directory / BEST).unlink(missing_ok=True)
    for step, factor in enumerate((1.0, 3.0, 0.2, 1.5), start=1):
        load_weights(run.generator, run.directory / GENERATOR)
        with torch.no_grad():
            for parameter in run.generator.heads.parameters():
                parameter.mul_(factor)
        # A fresh one each time, as after a resume.
        evaluation = TrainingEvaluation(run, ASKED, best=row)
        values.append(evaluation(step, 8 * step)[f"evaluation/{row}"])
        best = (min if better == "lower" else max)(values)
        assert best_so_far(run.directory / BEST, row) == best
    assert len(set(values)) > 1
    assert math.isnan(best_so_far(run.directory / BEST, "another/row"))


def test_a_row_that_cannot_be_best_is_named(tiny):
    run = load_run(tiny)
    with pytest.raises(UserError, match="'agreement/damsm/hard' cannot say what is best"):
        TrainingEvaluation(
            run, Options(metrics=["agreement", "fid"], images=8), best="agreement/damsm/hard"
        )
    evaluation = TrainingEvaluation(run, ASKED, best="graded/places")
    with pytest.raises(UserError, match=r"no row 'graded/places' .* graded/place"):
        evaluation(1, 8)
