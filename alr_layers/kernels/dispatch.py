"""Which backend runs an op: the call's argument > `use_backend` > ALR_LAYERS_BACKEND > "auto".

"reference" is plain PyTorch, "fused" are the Triton kernels, "auto" is fused where they support
the tensors at hand. "fused" never falls back: it raises with every reason. Everything is decided
from metadata (device, dtype, shape), so nothing here waits for a device or breaks a graph.
"""

import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from alr_layers.kernels import reference, requirements
from alr_layers.kernels.requirements import OPS

BACKENDS = ("auto", "reference", "fused")
ENVIRONMENT_VARIABLE = "ALR_LAYERS_BACKEND"

_log = logging.getLogger("alr_layers")
_announced: set[tuple[str, str]] = set()


class FusedUnavailableError(RuntimeError):
    """The fused backend was asked for by name and cannot run; the message lists every reason."""


def _validated(backend: str, origin: str) -> str:
    if backend not in BACKENDS:
        choices = ", ".join(repr(name) for name in BACKENDS)
        raise ValueError(f"{origin} is {backend!r}, expected one of {choices}")
    return backend


def check_backend(backend: str | None) -> str | None:
    """The argument itself, if it is None or names a backend."""
    return None if backend is None else _validated(backend, "backend")


def _fused_module(name: str) -> ModuleType:
    """A file of fused kernels, imported (and Triton with it) when the first tensor needs one.

    By statement, which a compiler runs while it traces, and which registers all ops at once.
    """
    from alr_layers.kernels import closing, layout, masked_gram, residual

    files = {
        "closing": closing,
        "layout": layout,
        "masked_gram": masked_gram,
        "residual": residual,
    }
    return files[name]


_selected = _validated(os.environ.get(ENVIRONMENT_VARIABLE) or "auto", ENVIRONMENT_VARIABLE)


class use_backend:
    """Choose the backend of all calls that name none: "auto", "reference" or "fused".

    A plain call sets it for good; as a context manager it is put back at the end of the block.
    One setting for the whole process, not one per thread.

    Example:
        >>> with use_backend("reference"):
        ...     print(explain("layout_context"))
        layout_context: reference (asked for by name)
    """

    def __init__(self, backend: str) -> None:
        global _selected
        self.backend = _validated(backend, "backend")
        self._previous = _selected
        _selected = self.backend

    def __enter__(self) -> "use_backend":
        global _selected
        _selected = self.backend
        return self

    def __exit__(self, *exception: object) -> None:
        global _selected
        _selected = self._previous


def choose(op: str, tensors: tuple[Tensor, ...], backend: str | None = None) -> str:
    """The path of `op` for these tensors, "reference" or "fused".

    Raises:
        FusedUnavailableError: "fused" is asked for by name and cannot run.
    """
    if op not in OPS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(OPS)}")
    wanted = _selected if backend is None else _validated(backend, "backend")
    if wanted == "reference":
        return "reference"
    reasons = requirements.obstacles(op, *tensors)
    if not reasons:
        return "fused"
    if wanted == "fused":
        raise FusedUnavailableError(
            f"{op} cannot run on the fused backend: {'; '.join(reasons)}. "
            'Use backend="auto" or backend="reference".'
        )
    return "reference"


def _announce(op: str, path: str) -> None:
    """Log the first use of a path; not under a compiler, where a log call would break the graph."""
    if not torch.compiler.is_compiling() and (op, path) not in _announced:
        _announced.add((op, path))
        _log.info("%s runs on the %s backend", op, path)


def implementation(op: str, path: str) -> Callable[..., Any]:
    """The function that is `op` on this path, "reference" or "fused"."""
    module = OPS[op].module
    file = _fused_module(module) if path == "fused" and module else reference
    found: Callable[..., Any] = getattr(file, op)
    return found


def resolve(op: str, tensors: tuple[Tensor, ...], backend: str | None = None) -> Callable[..., Any]:
    """The implementation of `op` for these tensors.

    Raises:
        FusedUnavailableError: "fused" is asked for by name and cannot run.
    """
    path = choose(op, tensors, backend)
    _announce(op, path)
    return implementation(op, path)


def explain(op: str, *tensors: Tensor) -> str:
    """Say in one line which backend `op` takes on these tensors, and why.

    Args:
        op: a name in `OPS`, e.g. "layout_context".
        tensors: what the op would be called with; without them only the general reasons count.

    Example:
        >>> explain("masked_difference")  # doctest: +ELLIPSIS
        'masked_difference: ...'
    """
    if op not in OPS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(OPS)}")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensors holds a {type(tensor).__name__}, expected tensors alone")
    if _selected == "reference":
        return f"{op}: reference (asked for by name)"
    reasons = requirements.obstacles(op, *tensors)
    if not reasons:
        return f"{op}: fused ({'asked for by name' if _selected == 'fused' else 'auto'})"
    if _selected == "fused":
        return f"{op}: unavailable (fused is asked for by name, but: {'; '.join(reasons)})"
    return f"{op}: reference (auto; not fused: {'; '.join(reasons)})"
