import pytest
import torch

from baselines.training import hardware
from baselines.training.hardware import cpu_flags, resolved_amp, total_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", "bf16"),
        ("flags\t\t: fpu amx_bf16", "bf16"),
        ("Features\t: fp asimd bf16 i8mm", "bf16"),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "no"),
        ("model name\t: avx512_bf16 in name only", "no"),
    ],
)
def test_auto_takes_bf16_where_the_processor_multiplies_it(line, expected, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\nbogomips\t: 2\n")
    monkeypatch.setattr(hardware, "CPU_DESCRIPTION", path)
    assert resolved_amp("auto", CPU) == expected


def test_auto_is_float32_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CPU_DESCRIPTION", tmp_path / "none")
    assert resolved_amp("auto", CPU) == "no"


def test_the_flags_are_those_that_torch_finds():
    if not hasattr(torch.cpu, "_is_avx512_bf16_supported") or not cpu_flags():
        pytest.skip("neither torch nor this system describes its processor")
    assert ("avx512_bf16" in cpu_flags()) == torch.cpu._is_avx512_bf16_supported()


@pytest.mark.parametrize("amp", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_what_is_asked_for_is_taken_everywhere(amp, device):
    assert resolved_amp(amp, torch.device(device)) == amp


@pytest.mark.gpu
def test_auto_on_a_gpu():
    device = torch.device("cuda")
    native = torch.cuda.get_device_capability(device) >= (8, 0)
    assert resolved_amp("auto", device) == ("bf16" if native else "no")


@pytest.mark.parametrize(("limit", "expected"), [("1073741824\n", 2.0**30), ("max\n", None)])
def test_memory_is_the_machines_or_the_containers(limit, expected, tmp_path, monkeypatch):
    path = tmp_path / "memory.max"
    path.write_text(limit)
    monkeypatch.setattr(hardware, "CONTAINER_LIMIT", tmp_path / "none")
    machine = total_memory(CPU)
    assert machine > 2.0**30
    monkeypatch.setattr(hardware, "CONTAINER_LIMIT", path)
    assert total_memory(CPU) == (expected or machine)
