"""Small torch files that would hang their reader or fill its memory are refused before they can."""

import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from baselines.training.checkpoint import CheckpointError, load_torch, save_torch
from tests.baselines.conversion.test_foreign import zipped
from tests.baselines.data.test_pickle_bombs import (
    PROTO,
    colliding,
    encodes,
    hash_bomb,
    nested_tuples,
)
from tests.support.bounded import bounded

LEVELS = 60
OUTER = b"h" + bytes([LEVELS])  # recalls the outer of that many tuples of tuples
PAIRS = hash_bomb(LEVELS)[len(PROTO) + 3 : -len(b"h\xff" + OUTER + b"Ns.")]


def called(what, arguments):
    """A pickle of {"a": what(*arguments)}; both are opcodes."""
    return PROTO + PAIRS + b"0" * (LEVELS + 1) + b"}X\x01\x00\x00\x00a" + what + arguments + b"Rs."


ORDERED = b"ccollections\nOrderedDict\n"
BOMBS = {
    "hash": (hash_bomb(), "keys that are neither"),
    "nested": (nested_tuples(), "nested deeper"),
    "collisions": (colliding(), "keys that are neither"),
    "encodes": (encodes(), "asks for '_codecs.encode'"),
    "ordered": (called(ORDERED, b"]" + OUTER + b"N\x86a\x85"), "makes a mapping"),
    "ordered, arguments in a list": (
        called(ORDERED, b"]]" + OUTER + b"N\x86aa"),
        "makes a mapping",
    ),
    "counter": (
        called(b"ccollections\nCounter\n", b"](" + OUTER + b"e\x85"),
        "'collections.Counter'",
    ),
    "set": (called(b"cbuiltins\nset\n", b"](" + OUTER + b"e\x85"), "'builtins.set'"),
    "memory": (
        called(b"cbuiltins\nbytearray\n", b"\x8a\x05" + struct.pack("<Q", 10**11)[:5] + b"\x85"),
        "'builtins.bytearray'",
    ),
    "tensor": (
        called(b"ctorch\nFloatTensor\n", b"\x8a\x05" + struct.pack("<Q", 10**11)[:5] + b"\x85"),
        "'torch.FloatTensor'",
    ),
    "by value": (
        PROTO + b"X\x08\x00\x00\x00builtinsX\x03\x00\x00\x00set\x93.",
        "does not name in plain text",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name, tmp_path):
    content, reason = BOMBS[name]
    kind, message = bounded(load_torch, zipped(tmp_path, content), seconds=5)
    assert kind == "CheckpointError", message
    assert "bomb.pth: refused" in message and reason in message
    assert "\n" not in message and len(message) < 500


def test_compressed_archives_are_not_read(tmp_path):
    """A few kilobytes of them unfold to gigabytes."""
    whole = zipped(tmp_path, b"N" * 2**26 + b".")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(
        tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED
    ) as new:  # fmt: skip
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="BadZipFile"):
        load_torch(tmp_path / "small.pth")


def test_states_of_every_plain_kind_come_back(tmp_path):
    """What a checkpoint may hold is not refused with the bombs."""
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    kinds = [torch.bfloat16, torch.half, torch.double, torch.uint8, torch.int64, torch.bool]
    state = {
        "network": OrderedDict(network.state_dict()),
        "optimizer": optimizer.state_dict(),
        "kinds": [torch.ones(2).to(kind) for kind in kinds],
        "parameter": nn.Parameter(torch.ones(3)),
        "size": network[0].weight.shape,
        "random": torch.get_rng_state(),
        "plain": {"a": (1, 2.5, None, True, "text", -(2**40)), 7: [[], {}]},
    }
    save_torch(state, tmp_path / "state.pt", images=3)
    again = load_torch(tmp_path / "state.pt")
    assert again["plain"] == state["plain"] and again["size"] == state["size"]
    assert [kind.dtype for kind in again["kinds"]] == kinds
    assert torch.equal(again["network"]["0.weight"], network[0].weight)
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(again["optimizer"]["state"][0][key], value)
