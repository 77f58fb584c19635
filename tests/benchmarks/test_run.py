import json
import subprocess
from dataclasses import replace

import pytest
import torch

from baselines.errors import UserError
from benchmarks import gate, kept, records, run, tables
from benchmarks.cases import PROVIDERS, Provider, Shape
from benchmarks.paths import cases
from benchmarks.records import MODES, Job, run_jobs
from benchmarks.timing import measure


def record(provider, p50, **more):
    return {
        "case": "gated_residual",
        "provider": provider,
        "mode": "both",
        "dtype": "float32",
        "shape_name": "cub",
        "shape_batch": 2,
        "shape_dim": 32,
        "shape_size": 64,
        "p50_ms": p50,
        "device": "Some GPU",
        "torch": "2.11.0",
        "triton": "3.6.0",
        "threads": 1,
        "commit": "abc",
        "copy_gb_per_s": 1000.0,
        **more,
    }


def test_share_of_the_copy_bandwidth():
    assert tables.achieved(record("fused", 2.0, floor_bytes=10**9)) == pytest.approx(50)
    assert tables.achieved(record("fused", 2.0)) is None
    assert tables.achieved(record("fused", 2.0, floor_bytes=10**9, device="CPU x")) is None


def test_a_table_shows_gains_and_losses_against_eager():
    text = tables.table([record("eager", 2.0), record("compiled", 4.0), record("fused", 1.0)])
    assert "2 | 4 (0.50×) | 1 (2.00×)" in text


def test_a_later_measurement_replaces_an_earlier_one():
    text = tables.table([record("eager", 2.0), record("eager", 3.0)])
    assert "| 3 |" in text
    assert "| 2 |" not in text


def test_without_a_gpu_file_the_tables_say_so(tmp_path):
    (tmp_path / "CPU-x__torch2.jsonl").write_text(json.dumps(record("eager", 2.0, device="CPU x")))
    assert tables.NOT_MEASURED in tables.write(tmp_path).read_text()
    (tmp_path / "GPU__torch2.jsonl").write_text(json.dumps(record("fused", 2.0)))
    text = tables.write(tmp_path).read_text()
    assert tables.NOT_MEASURED not in text
    assert "## Some GPU" in text


def test_the_page_is_drawn_anew_from_a_folder_of_measurements(tmp_path, capsys):
    (tmp_path / "GPU__torch2.jsonl").write_text(json.dumps(record("fused", 2.0)))
    tables.main(["--results", str(tmp_path)])
    assert "## Some GPU" in (tmp_path / "TABLES.md").read_text()
    assert capsys.readouterr().out == f"{tmp_path / 'TABLES.md'}\n"


def test_a_folder_without_measurements_stays_as_it_is(tmp_path):
    with pytest.raises(UserError, match="holds no measurements"):
        tables.main(["--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [tables.main, kept.main], ids=["tables", "kept"])
def test_help_and_unknown_options_measure_and_write_nothing(command, monkeypatch, capsys):
    for module, work in ((tables, "write"), (kept, "table")):
        monkeypatch.setattr(module, work, lambda *_: pytest.fail("went to work"))
    for argv, status in ((["--help"], 0), (["--foo"], 2)):
        with pytest.raises(SystemExit) as ended:
            command(argv)
        assert ended.value.code == status
    assert "unrecognized arguments: --foo" in capsys.readouterr().err


def test_comparison_names_the_ratio():
    text = tables.comparison([record("fused", 3.0)], [record("fused", 1.5)])
    assert text.endswith("2.00 x as fast as before")


FOREVER = float("inf")
MORE = {"threads": 1, "commit": None, "copy_gb_per_s": 1.0}
FACTS = {"sources": "abc", "device": "x", "torch": "2", "triton": None, "date": "today"}


def pytest_says(monkeypatch, code, text):
    calls = []

    def runs(command, **options):
        calls.append(command)
        return subprocess.CompletedProcess(command, code, text, "")

    monkeypatch.setattr(gate.subprocess, "run", runs)
    return calls


def test_a_red_gate_stops_everything(monkeypatch, tmp_path):
    pytest_says(monkeypatch, 1, "1 failed")
    with pytest.raises(SystemExit, match="1 failed"):
        gate.pass_gate(torch.device("cpu"), FACTS, tmp_path / "stamps")
    assert not (tmp_path / "stamps").exists()


def test_a_green_gate_is_not_run_again_for_the_same_sources(monkeypatch, tmp_path):
    calls = pytest_says(monkeypatch, 0, "..\n2 passed")
    stamps = tmp_path / "new" / "stamps"
    for facts in (FACTS, FACTS, FACTS | {"sources": "changed"}):
        assert gate.pass_gate(torch.device("cpu"), facts, stamps).startswith("2 passed")
    assert len(calls) == 2


def test_the_digest_follows_the_sources_without_git(monkeypatch, tmp_path):
    monkeypatch.setattr(gate, "ROOT", tmp_path)
    (tmp_path / "alr_layers").mkdir()
    file = tmp_path / "alr_layers" / "a.py"
    file.write_text("x = 1")
    before = gate.sources_digest()
    assert gate.sources_digest() == before
    file.write_text("x = 2")
    assert gate.sources_digest() != before
    monkeypatch.setenv("PATH", "")
    assert gate.git("rev-parse", "HEAD") is None


def small(name):
    (case,) = (case for case in cases() if case.name == name)
    return replace(case, functions={"eager": case.functions["eager"]}, moved=None)


def test_the_most_informative_comes_first():
    device = torch.device("cuda")
    jobs = list(run.jobs_of(cases(), device, shapes=run.shapes_of(device, quick=False)))
    first = jobs[0]
    assert (first.mode, first.shape.size, first.dtype) == ("both", 128, torch.float32)
    order = [job.mode for job in jobs]
    assert order == sorted(order, key=MODES.index)
    assert len(jobs) == len({(tuple(job.facts().values())) for job in jobs})


def test_a_command_that_is_cut_off_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "cases", lambda: (small("gated_residual"),))
    monkeypatch.setattr(run, "conditions", lambda device: MORE | FACTS)
    monkeypatch.setattr(run, "pass_gate", lambda *a: "2 passed")
    monkeypatch.setattr(run, "shapes_of", lambda *a, **k: [Shape("cub", 2, 8, 5, 64)])
    out = tmp_path / "there" / "CPU__torch2.jsonl"
    command = ["--device", "cpu", "--quick", "--out", str(out)]
    run.main([*command, "--deadline", "0"])
    assert " left at the deadline: go on with --resume" in capsys.readouterr().out
    run.main([*command, "--provider", "eager", "--mode", "both"])
    run.main([*command, "--provider", "eager", "--resume"])
    modes = [json.loads(line)["mode"] for line in out.read_text().splitlines()]
    assert modes == ["both", "forward"]


def test_a_measurement_that_fails_is_recorded_and_the_next_goes_on():
    def broken(*arguments):
        raise RuntimeError("out of memory\nmore")

    good = small("gated_residual")
    bad = replace(good, functions={"eager": broken})
    shape = Shape("cub", 1, 4, 3, 4)
    jobs = [Job(case, "eager", "both", shape, torch.float32) for case in (bad, good)]
    device = torch.device("cpu")
    first, second = run_jobs(jobs, device, {"device": "x"}, budget=0.01, until=FOREVER)
    assert first["error"] == "RuntimeError: out of memory"
    assert second["p50_ms"] > 0
    assert "error" in tables.table([first, second | {"provider": "compiled"}])


@pytest.fixture
def traced(monkeypatch):
    """The provider "compiled" traces and guards as ever, and runs what it traced as it is."""
    monkeypatch.setitem(PROVIDERS, "compiled", Provider("eager", {"backend": "eager"}))


def test_a_compiled_function_that_compiles_again_is_an_error(traced):
    """Sixteen shapes through one compiled function would run eagerly after the eighth."""
    case = replace(small("gated_residual"), functions={"eager": lambda x: (x * len(x),)})
    compiled = case.called("compiled")
    compiled(torch.zeros(2))
    with records._no_recompilation("compiled"), pytest.raises(RuntimeError, match="recompile"):
        compiled(torch.zeros(3))


def test_every_configuration_is_compiled_afresh(traced):
    case = small("gated_residual")
    shapes = [Shape("cub", 1, 4, 3, size) for size in range(2, 14)]
    jobs = [Job(case, "compiled", "both", shape, torch.float32) for shape in shapes]
    found = list(run_jobs(jobs, torch.device("cpu"), {}, budget=0.001, until=FOREVER))
    assert [entry.get("error") for entry in found] == [None] * 12


def test_results_are_kept_apart_by_device_and_version():
    name = run.results_file({"device": "NVIDIA H200 (x)", "torch": "2.11.0+cu130"}).name
    assert name == "NVIDIA-H200-x-__torch2.11.0.jsonl"


def test_preparation_is_not_timed():
    events = []
    found = measure(
        lambda: events.append("call"),
        torch.device("cpu"),
        budget=0.01,
        prepare=lambda: events.append("prepare"),
    )
    assert events[::2] == ["prepare"] * (len(events) // 2)
    assert found.p20 <= found.p50 <= found.p80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--deadline -1", "-1: expected a finite number"),
        ("--deadline soon", "'soon' is no number"),
        ("--case none", "invalid choice: 'none'"),
    ],
)
def test_a_mistyped_option_is_one_line(options, message, capsys):
    with pytest.raises(SystemExit):
        run.main(options.split())
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_what_cannot_be_compared_or_run_is_told_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "pass_gate", lambda *a: pytest.fail("the gate was run"))
    with pytest.raises(UserError, match="no such file"):
        run.main(["--compare", str(tmp_path / "none.jsonl")])
    broken = tmp_path / "broken.jsonl"
    for line in ("not a record", '{"case": "of another file"}'):
        broken.write_text(line + "\n")
        with pytest.raises(UserError, match="line 1 is damaged"):
            run.main(["--compare", str(broken)])
    with pytest.raises(UserError, match="device 'toaster' does not exist"):
        run.main(["--device", "toaster"])


def test_a_plot_of_the_same_numbers_is_the_same_file(tmp_path):
    pictures = [tmp_path / "a" / "x.svg", tmp_path / "b" / "x.svg"]
    for out in pictures:
        out.parent.mkdir()
        tables.plots([record("eager", 2.0), record("fused", 1.0)], out)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
