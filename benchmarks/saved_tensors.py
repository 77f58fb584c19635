"""Counts the bytes that autograd keeps for backward passes: exact, whatever the machine."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import torch
from torch import Tensor


class SavedTensors:
    """Counts saved tensors, each storage once, for as long as anything in a graph holds it.

    live, peak: bytes held now, and the most at any moment.
    """

    def __init__(self, beside: Iterable[Tensor] = ()) -> None:
        """`beside` are tensors that exist anyway, parameters and inputs: they do not count."""
        self._anyway = {tensor.untyped_storage()._cdata for tensor in beside}
        self._holders: dict[int, int] = {}
        self.live = self.peak = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def _pack(self, tensor: Tensor) -> _Held:
        return _Held(tensor, self)

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def change(self, key: int, size: int, by: int) -> None:
        """One more or one fewer holder of a storage."""
        if key in self._anyway:
            return
        before = self._holders.get(key, 0)
        self._holders[key] = before + by
        if before == 0 or before + by == 0:
            self.live += by * size
            self.peak = max(self.peak, self.live)


class _Held:
    """A saved tensor, which gives notice when its graph is gone."""

    def __init__(self, tensor: Tensor, counter: SavedTensors) -> None:
        self.tensor, self._counter = tensor.detach(), counter
        storage = tensor.untyped_storage()
        self._key, self._size = storage._cdata, storage.nbytes()
        counter.change(self._key, self._size, 1)

    def __del__(self) -> None:
        self._counter.change(self._key, self._size, -1)
