import json
import subprocess

import pytest
import torch

from benchmarks import run, tables
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


def test_comparison_names_the_ratio():
    text = tables.comparison([record("fused", 3.0)], [record("fused", 1.5)])
    assert text.endswith("2.00 x as fast as before")


def test_a_red_gate_stops_everything(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "1 failed", "")
    monkeypatch.setattr(run.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(SystemExit, match="red"):
        run.gate(torch.device("cpu"))


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
