"""The ablation from its plan to its tables, at a size that takes seconds."""

import contextlib
import dataclasses
import json
import math
import random
import shutil
import statistics as std
from types import SimpleNamespace

import pytest
import torch

from alr_layers import ALRLoss
from baselines import damsm
from baselines.errors import UserError
from baselines.hosts import preset
from benchmarks.ablation import __main__ as command
from benchmarks.ablation import variants, weights
from benchmarks.ablation.plan import MEASURES, Task, planned
from benchmarks.ablation.runs import AblationRun, marks, times
from benchmarks.ablation.statistics import estimate, interpolated, paired, reached
from benchmarks.ablation.tables import gathered, grouped, page, write_results
from benchmarks.ablation.variants import VARIANTS, Size, build_config
from benchmarks.ablation.work import do, named, require_planned_encoders
from tests.baselines.commands import differences

TINY = Size(
    "demo",
    dict.fromkeys((1, 2, 3), (
        "run.device=cpu", "data.train_images=32", "encoder.images=32", "encoder.batch_size=8",
        "encoder.embedding_dim=16", "encoder.token_dim=8", "model.feature_dim=8",
        "model.discriminator_dim=8", "optim.batch_size=4", "loss.bank=8", "optim.amp=no",
        "run.checkpoint_every=2", "run.log_every=2", "refine.alr.start=0", "refine.alr.ramp=0",
    )),
    {1: 16, 2: 16, 3: 16},
    8,
    6,
)  # fmt: skip
HOST = AblationRun("tiny", "attngan", "host", 1, 0)
ALR = AblationRun("tiny", "attngan", "damsm-alr", 1, 0)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(variants.SIZES, "tiny", TINY)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Both runs, trained and measured."""
    root = tmp_path_factory.mktemp("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.SIZES, "tiny", TINY)
        for task in planned("tiny", ["attngan"], ["host", "damsm-alr"], [1], [0]):
            assert task.is_ready(root) and not task.is_done(root), task.label
            do(task.kind, task.name, root)
            assert task.is_done(root), task.label
    return root


def test_every_variant_is_a_configuration():
    for size in variants.SIZES.values():
        for variant in VARIANTS.values():
            for host in ("attngan", "dmgan"):
                config = build_config(size, variant, host, 2, seed=3)
                assert config.run.seed == 3 and config.data.max_objects == 2
                assert config.model.name == host
            assert variant.control in VARIANTS


def test_the_rows_called_the_demos_refine_as_the_demo_does():
    demo = preset("alrgan", "demo").refine
    for name in ("equal-lvr", "sn-equal-lvr"):
        config = build_config(variants.SIZES["cpu"], VARIANTS[name], "attngan", 1, seed=0)
        assert config.refine == demo and "the demo's" in VARIANTS[name].title


def test_the_most_informative_comes_first():
    tasks = planned("cpu", ["attngan", "dmgan"], list(VARIANTS), [1, 2], None)
    assert [task.kind for task in tasks[:3]] == ["encoders", "train", "measure"]
    runs = [task.run for task in tasks if task.kind == "train"]
    assert len(set(runs)) == len(runs)
    main = [VARIANTS[run.variant].main for run in runs]
    assert main == sorted(main, reverse=True)
    first = [run for run in runs if (run.host, run.objects) == ("attngan", 1)]
    seeds = [run.seed for run in first if VARIANTS[run.variant].main]
    assert seeds == sorted(seeds) and set(seeds) == {0, 1, 2, 3}
    assert not any(run.objects > 1 for run in runs if not VARIANTS[run.variant].main)
    for run in runs:
        assert named(run.name) == run
    with pytest.raises(UserError, match="no run of the ablation"):
        named("cpu-attngan-hots-1-s0")


def test_a_run_is_a_directory_with_snapshots_times_and_measures(done, tiny):
    assert [images for images, _ in marks(ALR, done)] == [8, 16]
    seconds = times(done / ALR.name)
    assert 0 < seconds[8] < seconds[16]
    lines = [json.loads(x) for x in (done / ALR.name / MEASURES).read_text().splitlines()]
    assert [line["images"] for line in lines] == [8, 16]
    assert all(0 <= line["graded"]["place"] <= 1 for line in lines)
    assert "evaluation" in lines[1] and "evaluation" not in lines[0]
    assert {"layout", "fid/damsm"} <= lines[1]["evaluation"].keys()


def test_encoders_that_a_signal_left_are_gone_on_with(tiny, tmp_path, monkeypatch):
    def ended(config, *arguments):
        whole(
            dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, images=16)),
            *arguments,
        )

    whole = damsm.run
    task = Task("encoders", HOST)
    with monkeypatch.context() as patch:
        patch.setattr(damsm, "run", ended)
        do(task.kind, task.name, tmp_path)
    assert (tmp_path / task.name / "encoders.pt").exists() and not task.is_done(tmp_path)
    assert not Task("train", HOST).is_ready(tmp_path)
    do(task.kind, task.name, tmp_path)
    assert task.is_done(tmp_path)


@pytest.mark.parametrize("option", ["--list", "--table", "--hours=0"])
def test_runs_on_encoders_of_an_older_plan_do_not_count(option, tiny, tmp_path, monkeypatch):
    do("encoders", HOST.encoders, tmp_path)
    require_planned_encoders(tmp_path)
    longer = (*TINY.settings[1], "encoder.images=64")
    monkeypatch.setitem(variants.SIZES, "tiny", dataclasses.replace(TINY, settings={1: longer}))
    with pytest.raises(UserError, match=r"tiny-encoders-1: trained with encoder.images=32.* 64"):
        command.main([option, "--out", str(tmp_path), "--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_the_same_seed_trains_the_same_host_whatever_is_added_at_weight_zero(done, tiny, tmp_path):
    from baselines.training.checkpoint import checkpoints, load_torch

    root = tmp_path
    (root / HOST.encoders).symlink_to(done / HOST.encoders)
    idle = AblationRun("tiny", "attngan", "damsm-alr", 1, 0)
    with pytest.MonkeyPatch.context() as patch:
        settings = (*VARIANTS["damsm-alr"].settings, "refine.alr.weight=0")
        patch.setitem(VARIANTS, "damsm-alr", variants.Variant("damsm-alr", "", settings))
        do("train", idle.name, root)
    saved = [load_torch(checkpoints(path)[-1]) for path in (root / idle.name, done / HOST.name)]
    assert differences(*(state["networks"]["generator"] for state in saved)) == []


def test_tables_and_files_follow_from_the_measures(done, tiny, tmp_path, capsys):
    text = write_results(done, tmp_path / "results")
    assert "host alone" in text and VARIANTS["damsm-alr"].title in text
    again = gathered(tmp_path / "results" / MEASURES, tmp_path)
    assert grouped(again) == grouped(gathered(tmp_path / "none", done))
    assert "](tiny-attngan-1.png)" in text
    assert (tmp_path / "results" / "tiny-attngan-1.png").stat().st_size > 1000
    command.main(["--table", "--out", str(done), "--results", str(tmp_path / "more")])
    assert text in capsys.readouterr().out
    command.main(["--list", "--only", "host", "--objects", "1", "--out", str(done)])
    assert "to do train cpu-attngan-host-1-s0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--only nothing", "'nothing': expected some of host, "),
        ("--only host,", "'': expected some of host, "),
        ("--hosts foo", "'foo': expected some of attngan, "),
        ("--seeds x", "'x' is no whole number"),
        ("--objects 0", "0: expected 1 or more"),
        ("--jobs 0", "0: expected 1 or more"),
        ("--hours -1", "-1: expected a finite number, 0 or more"),
        ("--hours nan", "nan: expected a finite number, 0 or more"),
    ],
)
def test_a_mistyped_option_is_one_line(options, message, capsys):
    with pytest.raises(SystemExit):
        command.main(options.split())
    error = capsys.readouterr().err
    assert error.startswith(f"error: argument {options.split()[0]}: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["foo", "cpu-attngan-host-1-sx", "no-attngan-host-1-s0", "../a-b-c-1-s0"]
)
def test_what_is_no_run_is_named(name, tmp_path):
    with pytest.raises(UserError, match="no run of the ablation; see --list"):
        do("train", name, tmp_path)


def test_a_value_given_twice_counts_once():
    args = command.parse(["--seeds", "1,0,1", "--hosts", "attngan,attngan"])
    assert (args.seeds, args.hosts) == ([1, 0], ["attngan"])


def measured(variant, seed, points, seconds=100.0):
    return [
        {
            "size": "cpu", "host": "attngan", "variant": variant, "objects": 1, "seed": seed,
            "images": images, "cpu_seconds": seconds * images / 36_000, "graded": {"place": place},
        }
        for images, place in points
    ]  # fmt: skip


def test_a_page_compares_by_seed_and_at_equal_time():
    entries = []
    for seed, gain in ((0, 0.10), (1, 0.12)):
        entries += measured("host", seed, [(9000, 0.4 + seed / 10), (36_000, 0.8)])
        entries += measured(
            "damsm-alr", seed, [(9000, 0.4 + seed / 10 + gain), (36_000, 0.95)], seconds=200.0
        )
    ((group, runs),) = grouped(entries).items()
    text = page(group, runs)
    row = next(line for line in text.splitlines() if line.startswith("| + ALR on DAMSM"))
    assert row.startswith("| + ALR on DAMSM's layout | host alone | 2 | ")
    # 0.50 and 0.62 against 0.40 and 0.50; 0.9 is passed at 8/9 and 28/33 of the way from 9k to 36k.
    assert "0.560 ± 0.085 (+0.110 ± 0.010 [+0.100, +0.120])" in row
    way = std.fmean([9 + 27 * (0.9 - 0.5) / 0.45, 9 + 27 * (0.9 - 0.62) / 0.33])
    assert f"{way:.1f}k (2)" in row and "+100 %" in row
    equal = [line for line in text.splitlines() if line.startswith("| + ALR on DAMSM")][1]
    # At twice the cost it has seen 18k images when the host has seen 36k.
    assert f"{std.fmean([0.5 + 0.45 / 3, 0.62 + 0.33 / 3]):.3f}" in equal


def test_the_bootstrap_interval_of_many_seeds_is_that_of_the_normal_distribution():
    rng = random.Random(1)
    values = [rng.gauss(3, 2) for _ in range(60)]
    found = estimate(values)
    assert found.mean == pytest.approx(std.fmean(values))
    half = 1.96 * std.stdev(values) / math.sqrt(60)
    assert found.low == pytest.approx(found.mean - half, abs=0.08)
    assert found.high == pytest.approx(found.mean + half, abs=0.08)
    assert math.isnan(estimate([1.0]).spread) and math.isnan(estimate([]).mean)


def test_differences_are_paired_by_seed():
    noisy = {seed: 10.0 * seed for seed in range(5)}
    found = paired({seed: value + 1 for seed, value in noisy.items()}, noisy)
    assert (found.mean, found.spread, found.count) == (1, 0, 5)


def test_curves_are_read_between_their_points():
    curve = [(0.0, 0.0), (10.0, 1.0), (20.0, 0.5)]
    assert interpolated(curve, 5) == 0.5 and interpolated(curve, 15) == 0.75
    assert math.isnan(interpolated(curve, 21))
    assert reached(curve, 0.9) == 9 and math.isnan(reached(curve, 1.5))


class Objective:
    def __init__(self):
        self.loss = ALRLoss(6)
        self.extra_terms = [type("Extra", (), {"networks": {"alr": self.loss}})]


def layouts():
    torch.manual_seed(0)
    layout, real = (torch.rand(2, 4, 5, 5).softmax(1).requires_grad_() for _ in range(2))
    return layout, real.detach(), torch.randn(2, 6, 5, 5)


def test_constant_weights_are_the_plain_norms():
    objective = Objective()
    weights.constant(0.0, 1.0)(objective)
    layout, real, features = layouts()
    terms = objective.loss.terms(layout, real, features)
    residual = (real - layout).abs()
    hard = torch.where(residual >= 0.1, residual, 0)
    expected = hard.flatten(1).norm(dim=1).mean() / (6 * 25)
    torch.testing.assert_close(terms["hard"], expected)
    assert terms["easy"] == 0


def test_fixed_mean_moves_weight_and_ascending_reverses_its_gradient():
    layout, real, features = layouts()
    gradients = {}
    for kind in (weights.fixed_mean, weights.ascending):
        torch.manual_seed(1)
        objective = Objective()
        kind(objective)
        phi = objective.loss.phi_hard
        gated = torch.randn(2, 4, 5, 5)
        torch.testing.assert_close(phi(gated).mean((1, 2, 3)), torch.full((2,), 0.5))
        loss = objective.loss(layout, real, features)
        parameters = list(objective.loss.parameters())
        gradients[kind] = torch.autograd.grad(loss, [layout, *parameters], allow_unused=True)
    down, up = gradients[weights.fixed_mean], gradients[weights.ascending]
    torch.testing.assert_close(down[0], up[0])
    for a, b in zip(down[1:], up[1:], strict=True):
        torch.testing.assert_close(a, -b)


def test_without_the_order_term_the_rest_stays():
    objective = Objective()
    layout, real, features = layouts()
    before = objective.loss.terms(layout, real, features)
    weights.without_order(objective)
    after = objective.loss.terms(layout, real, features)
    assert after["order"] == 0 and after["hard"] == before["hard"]
    torch.testing.assert_close(
        objective.loss(layout, real, features), after["easy"] + after["hard"]
    )


def test_a_task_waits_for_what_it_builds_on(tiny, tmp_path):
    assert Task("encoders", HOST).is_ready(tmp_path)
    assert not Task("train", HOST).is_ready(tmp_path)
    assert not Task("measure", HOST).is_ready(tmp_path)


@pytest.mark.parametrize(("program", "outcome"), [("true", "left"), ("false", "failed")])
def test_a_run_that_a_signal_ended_is_not_called_done(
    program, outcome, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command.sys, "executable", shutil.which(program))
    with contextlib.suppress(UserError):
        command.work([Task("encoders", HOST)], tmp_path, 1, None)
    assert capsys.readouterr().out == f"{outcome}: encoders {HOST.encoders}\n"


def test_a_signal_lets_every_run_save(tmp_path, monkeypatch):
    trainer = tmp_path / "trainer"
    trainer.write_text(
        f"#!/bin/bash\ntrap 'touch {tmp_path}/saved; exit' TERM\ntouch {tmp_path}/ready\n"
        "while :; do sleep 0.05; done\n"
    )
    trainer.chmod(0o755)

    def interrupted(seconds):
        while not (tmp_path / "ready").exists():
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(command.sys, "executable", str(trainer))
    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=interrupted))
    with pytest.raises(KeyboardInterrupt):
        command.work([Task("encoders", HOST)], tmp_path, 1, None)
    assert (tmp_path / "saved").exists()


def test_measures_cut_off_by_a_kill_are_taken_again(done, tiny, tmp_path):
    from benchmarks.ablation.plan import is_measured

    root = tmp_path / "root"
    shutil.copytree(done, root, symlinks=True)
    assert is_measured(ALR, root)
    path = root / ALR.name / MEASURES
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert not is_measured(ALR, root)
    do("measure", ALR.name, root)
    again = [json.loads(line) for line in path.read_text().splitlines()]
    assert again == [json.loads(line) for line in whole.splitlines()]
