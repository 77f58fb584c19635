"""The first hour on a GPU, rehearsed: order, deadline, going on, and what is answered."""

import json
import subprocess
import time

import torch

from benchmarks import gpu_hour, questions, stages
from benchmarks.cases import Shape
from benchmarks.gpu_hour import STAGES, Stage, run_stages

FACTS = {"sources": "abc", "device": "Some GPU", "torch": "2.14", "triton": "3.8", "date": "today"}
TINY = (Shape("cub", 2, 8, 5, 4),)


def stretch(records=(), seconds=60.0):
    until = time.monotonic() + seconds
    return stages.Stretch(torch.device("cpu"), FACTS, list(records), until, 0.01, TINY)


def fake(name, count, log):
    def run(stretch):
        for index in range(count):
            if stretch.is_over():
                return
            log.append((name, index))
            yield {"kind": name, "name": str(index)}

    return Stage(name, "", run)


def test_stages_run_in_order_and_leave_their_lines(tmp_path):
    log, out = [], tmp_path / "hour.jsonl"
    records, complete = run_stages([fake("a", 2, log), fake("b", 1, log)], stretch(), out)
    assert log == [("a", 0), ("a", 1), ("b", 0)]
    assert complete == ["a", "b"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == records
    assert all(record["sources"] == "abc" for record in records)


def test_what_is_complete_is_not_run_again(tmp_path):
    log, out = [], tmp_path / "hour.jsonl"
    records, _ = run_stages([fake("a", 1, log)], stretch(), out)
    _, complete = run_stages([fake("a", 1, log), fake("b", 1, log)], stretch(records), out)
    assert log == [("a", 0), ("b", 0)]
    assert complete == ["a", "b"]


def test_nothing_begins_after_the_deadline(tmp_path):
    log = []
    _, complete = run_stages([fake("a", 3, log)], stretch(seconds=-1), tmp_path / "x.jsonl")
    assert log == []
    assert complete == []


def test_records_of_other_sources_answer_nothing():
    mine, other = {"sources": "abc"}, {"sources": "old"}
    assert gpu_hour.done_in([other, mine], "abc") == [mine]


def test_every_stage_runs_where_there_is_no_gpu(monkeypatch):
    # Minutes of training, which has tests of its own.
    monkeypatch.setattr(stages, "HOSTS", "")
    at_hand = stretch()
    at_hand.providers = ("eager", "transcription", "channels_last", "copy")
    found = {stage.name: list(stage.run(at_hand)) for stage in STAGES}
    every = [record for records in found.values() for record in records]
    assert not [record["error"] for record in every if "error" in record]
    assert all(found[name] for name in ("quick", "kernels", "phi"))


def test_the_training_stage_goes_on_with_the_hosts_that_are_left(monkeypatch):
    asked = []

    def run(command, *, timeout, **options):
        host = command[command.index("--hosts") + 1]
        assert command[2:5] == [stages.STEP, "--device", "cpu"] and 0 < timeout <= 60
        if host == "stackgan":
            raise subprocess.TimeoutExpired(command, timeout)
        asked.append(host)
        failed = host == "dmgan"
        return subprocess.CompletedProcess(command, int(failed), f"{host} 1 s", "out of memory")

    monkeypatch.setattr(stages.subprocess, "run", run)
    found = list(stages.training(stretch([{"kind": "training", "host": "attngan"}])))
    assert asked == ["dmgan"]
    assert found == [{"kind": "training", "host": "dmgan", "text": "dmgan 1 sout of memory"}]
    assert list(stages.training(stretch(seconds=-1))) == []


def record(case, provider, p50=None, *, mode="both", size=128, dtype="float32", **more):
    numbers = {} if p50 is None else {"p50_ms": p50}
    shape = {"shape_name": "cub", "shape_batch": 2, "shape_dim": 8, "shape_size": size}
    return {"case": case, "provider": provider, "mode": mode, "dtype": dtype} | (
        shape | numbers | more | FACTS
    )


def answer(text, records):
    (ask,) = (ask for question, ask in questions.questions().items() if text in question)
    return ask(records)


def test_targets_met_and_missed():
    records = [
        record("loss_path", "eager", 9.0),
        record("loss_path", "compiled", 3.5),
        record("loss_path", "fused", 3.0),
    ]
    assert answer("path 2.5 times as fast as eager", records).holds is True
    assert answer("as fast as torch.compile", records).holds is False
    assert "1.17x" in str(answer("as fast as torch.compile", records))


def test_one_shape_below_the_target_is_a_no():
    records = [
        record("gated_residual", provider, time_, dtype=dtype)
        for dtype, times in {"float32": (8.0, 1.0), "bfloat16": (3.0, 1.0)}.items()
        for provider, time_ in zip(("eager", "fused"), times, strict=True)
    ]
    assert answer("gated_residual", records).holds is False


def test_a_graph_is_compared_with_plain_eager():
    records = [
        record("loss_path", "eager", 6.0, size=64),
        record("loss_path", "fused", 4.0, size=64),
        record("loss_path", "fused", 1.5, size=64, mode="graph"),
    ]
    assert answer("as a graph", records).holds is True
    assert "4.00x" in str(answer("as a graph", records))


def test_memory_and_copy():
    records = [
        record("loss_path", "eager", mode="memory", peak_bytes=100),
        record("loss_path", "fused", mode="memory", peak_bytes=60),
        record("masked_difference", "copy", 0.6),
        record("masked_difference", "fused", 0.8),
    ]
    assert answer("half of eager's memory", records).holds is False
    assert answer("copy of its bytes", records).holds is True


def test_an_open_question_is_listed_as_open():
    text = questions.report([{"kind": "gate", "summary": "5 passed", **FACTS}], ["quick"], [])
    answered, left = text.split("## Still open")
    assert "Are the kernels right on this GPU? **yes: 5 passed**" in answered
    assert "path 2.5 times" in left
    assert "Stages not finished: quick." in left


def test_the_best_of_a_sweep_is_named():
    setting = {"tile": "gram_tile", "precision": "native", "warps": 4, "block_n": 32}
    records = [
        record("masked_difference", "fused", p50, kind="sweep", setting=setting | {"warps": warps})
        for p50, warps in ((2.0, 4), (1.0, 8))
    ]
    assert "gram_tile precision native warps 8" in str(answer("precision, warps and tile", records))


def test_the_command_goes_on_with_its_file(tmp_path, monkeypatch, capsys):
    out, log = tmp_path / "hour.jsonl", []
    monkeypatch.setattr(gpu_hour, "STAGES", (fake("a", 2, log), fake("b", 1, log)))
    monkeypatch.setattr(gpu_hour, "conditions", lambda device: FACTS)
    command = ["--out", str(out), "--device", "cpu", "--skip-gate"]
    gpu_hour.main([*command, "--deadline", "0"])
    assert "left: a, b" in capsys.readouterr().out
    gpu_hour.main([*command, "--stage", "a"])
    gpu_hour.main(command)
    assert log == [("a", 0), ("a", 1), ("b", 0)]
    assert "nothing is left" in capsys.readouterr().out
    assert "Still open" in out.with_suffix(".md").read_text()
