"""Torch files of unknown origin: their tensors come through; what runs away is stopped."""

import io
import os
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from baselines import convert
from baselines.conversion.foreign import read_foreign
from baselines.conversion.foreign_child import extract
from baselines.training.checkpoint import CheckpointError
from tests.baselines.data.test_pickle_bombs import encodes, hash_bomb
from tests.baselines.networks import torch03


def zipped(tmp_path, pickled, name="bomb.pth"):
    """A torch file whose pickle is `pickled`."""
    whole = io.BytesIO()
    torch.save({}, whole)
    path = tmp_path / name
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, pickled if entry.endswith("data.pkl") else old.read(entry))
    return path


def test_tensors_come_back_as_they_were(tmp_path):
    base = torch.randn(4, 6)
    state = {
        "float": base, "view": base[1:], "turned": base.T, "half": base.half(),
        "count": torch.tensor(3), "empty": torch.zeros(0, 2), "flag": torch.tensor([True]),
        "parameter": torch.nn.Parameter(base + 1), "module.β": torch.ones(1),
    }  # fmt: skip
    torch.save(state, tmp_path / "state.pth")
    again = read_foreign(tmp_path / "state.pth")
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(again[name], value.detach()) and again[name].dtype == value.dtype
        assert type(again[name]) is torch.Tensor and not again[name].requires_grad


def test_files_of_torch_0_3(tmp_path):
    torch03.save({"weight": torch.arange(3.0)}, tmp_path / "old.pth")
    assert extract(tmp_path / "old.pth", tmp_path / "new") == ""
    assert load_file(tmp_path / "new")["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"epoch": 3}, "not a plain state_dict of tensors: 'epoch': int"),
        ({3: torch.ones(1)}, "not a plain state_dict of tensors: 3: Tensor"),
        ([torch.ones(1)], "holds a list, not a dictionary"),
        (torch.ones(1), "holds a Tensor"),
        ({"w": torch.zeros(1).expand(2**40)}, "would take 4,398,046,511,104 bytes"),
        ({f"w{n}": torch.zeros(1).expand(2**20) for n in range(50)}, "far more than the file"),
    ],
    ids=["value", "number", "list", "tensor", "expanded", "many views"],
)
def test_what_is_no_state_dict_is_said(tmp_path, content, fault):
    torch.save(content, tmp_path / "x.pth")
    message = extract(tmp_path / "x.pth", tmp_path / "out")
    assert fault in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_what_hangs_is_ended(tmp_path):
    with pytest.raises(CheckpointError, match=r"bomb\.pth: reading it takes more than 15 s"):
        read_foreign(zipped(tmp_path, hash_bomb()), seconds=15)


def test_what_fills_memory_is_ended(tmp_path):
    with pytest.raises(CheckpointError, match=r"bomb\.pth: ") as caught:
        read_foreign(zipped(tmp_path, encodes()), memory=2**28)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not torch", b"\x80\x02}q\x00."])
def test_what_is_no_torch_file_is_one_line(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    message = extract(tmp_path / "x.pth", tmp_path / "out")
    assert message and "\n" not in message and "weights_only" not in message and len(message) < 400


class _Malice:
    def __reduce__(self):
        return (time.sleep, (100,))


def test_no_advice_to_run_the_code(tmp_path):
    torch.save({"w": _Malice()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth: .*time\.sleep") as caught:
        convert.convert([tmp_path / "evil.pth"], tmp_path / "out", None, "cub")
    assert "weights_only" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_regular_files(tmp_path, make):
    make(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_foreign(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="No such file"):
        read_foreign(tmp_path / "none.pth")
