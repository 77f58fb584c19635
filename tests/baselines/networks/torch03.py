"""Writes a state_dict as torch 0.3 on Python 2 did: no zip, byte strings, `_rebuild_tensor`."""

import collections
import io
import pickle
import struct
from typing import ClassVar

import torch

MAGIC, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Storage:
    def __init__(self, key, tensor):
        self.key, self.tensor = key, tensor


class _Rebuilt:
    """A tensor to be pickled as a call of `torch._utils._rebuild_tensor`."""

    def __init__(self, key, tensor):
        self.storage, self.tensor = _Storage(key, tensor), tensor

    def __reduce__(self):
        size, stride = tuple(self.tensor.shape), self.tensor.stride()
        return torch._utils._rebuild_tensor, (self.storage, 0, size, stride)


class _Python2Pickler(pickle._Pickler):
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        data = text.encode()
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_str

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", torch.FloatStorage, value.key, "cuda:0", value.tensor.numel(), None)
        return None


def _dump(value):
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def save(state, path):
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in state.items()}
    wrapped = collections.OrderedDict(
        (name, _Rebuilt(str(number), tensor))
        for number, (name, tensor) in enumerate(tensors.items())
    )
    system = {
        "protocol_version": PROTOCOL_VERSION,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = [_dump(x) for x in (MAGIC, PROTOCOL_VERSION, system, wrapped)]
    parts.append(_dump([str(number) for number in range(len(tensors))]))
    for tensor in tensors.values():
        parts.append(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
    path.write_bytes(b"".join(parts))
