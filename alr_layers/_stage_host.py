"""One refinement stage of somebody else's generator: what a hook sees of it, and how it decodes."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alr_layers.alr import ALRModule


class Call(NamedTuple):
    """What a stage was called with in the generator's own pass, and what it returned."""

    features: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


class StageHook:
    """Tells its owner of every call of a stage. Copied or pickled with the generator, it is dead.

    The owner is held weakly: a generator keeps nothing of the refinement alive.
    """

    def __init__(self, owner: Any = None, index: int = 0) -> None:
        self._owner = None if owner is None else weakref.ref(owner)
        self._index = index

    @property
    def owner(self) -> Any:
        """The refinement to tell, or None."""
        return None if self._owner is None else self._owner()

    # Breaks the graph of a compiled generator here: h must be a tensor that the generator goes on
    # with, not a copy that the compiled graph hands out besides.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def __call__(
        self, stage: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """A forward hook with keyword arguments."""
        owner = self.owner
        if owner is not None:
            owner.observe(self._index, stage, args, kwargs, output)

    def __reduce__(self) -> tuple[type["StageHook"], tuple[()]]:
        return StageHook, ()


class StageHost:
    """A stage and its image head as layout source and decoder of `LayoutRefinement`.

    Decoding calls the stage as the generator did in its last pass, with h* in the place of h and
    everything else detached: L_REC trains stage, head and encoder.

    Args:
        stage: maps h and what else the generator hands over to the next features, alone or before
            the layout (B, T, H, W) in a tuple.
        head: maps features to images.
        feature_dim: D of h.
        own: the module that gives layouts where the stage has none.
        by_stage: whether `head` reads what the stage returns, or h itself.
    """

    def __init__(
        self,
        stage: nn.Module,
        head: nn.Module,
        *,
        feature_dim: int,
        own: ALRModule | None,
        by_stage: bool,
    ) -> None:
        self.stage, self.head, self.own, self.by_stage = stage, head, own, by_stage
        self.feature_dim = feature_dim
        self.call: Call | None = None
        self.busy = False
        self._ran: tuple[Tensor, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"call": None, "busy": False, "_ran": None}

    def observe(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Keep the generator's call; not those of decoding, nor those without a gradient."""
        if self.busy or not torch.is_grad_enabled():
            return
        features = _first(args, kwargs, is_features)
        if features is None:
            raise TypeError(
                f"{type(self.stage).__name__} was called without features (B, D, H, W); name the"
                " refinement stages, attach(..., stages=[...])"
            )
        self.call = Call(features, args, kwargs, output)

    def fake_layout(self, words: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Θ of the generator's own pass."""
        assert self.call is not None
        if self.own is None:
            return self._layout_in(self.call.output, self.call.features)
        assert words is not None and lengths is not None
        return self.own.layout(self.call.features, words, lengths)

    def words(self) -> Tensor | None:
        """The words (B, C, T) that the stage was called with, if it was."""
        assert self.call is not None
        return _first(self.call.args, self.call.kwargs, lambda it: is_floating(it, 3))

    def layout(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """Θ of any features: that of the stage itself, or of the module brought along."""
        if self.own is not None:
            return self.own.layout(features, words, lengths)
        return self._layout_in(self._run(features), features)

    def decode(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """The image of any features."""
        if not self.by_stage:
            read = features
        else:
            output = self._run(features)
            read = output if isinstance(output, Tensor) else output[0]
        image: Tensor = self._guarded(self.head, read)
        return image

    def finish(self) -> None:
        """Let go of the last pass and of its graph."""
        self.call = self._ran = None

    def _run(self, features: Tensor) -> Any:
        """What the stage returns for `features`; once for the layout and the image of the same."""
        if self._ran is None or self._ran[0] is not features:
            assert self.call is not None
            args, kwargs = _replaced(self.call, features)
            self._ran = features, self._guarded(self.stage, *args, **kwargs)
        return self._ran[1]

    def _guarded(self, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.busy = True
        try:
            return network(*args, **kwargs)
        finally:
            self.busy = False

    def _layout_in(self, output: Any, features: Tensor) -> Tensor:
        grid = features.shape[2:]
        parts = output[1:] if isinstance(output, (tuple, list)) else ()
        for part in parts:
            if is_features(part) and part.shape[2:] == grid:
                found: Tensor = part
                return found
        raise TypeError(
            f"{type(self.stage).__name__} returns no attention map (B, T, {grid[0]}, {grid[1]})"
            " after its features: let the refinement bring one, attach(..., own_layout=True,"
            " word_dim=...)"
        )


def is_floating(value: Any, rank: int) -> bool:
    """Whether `value` is a floating tensor of `rank` dimensions."""
    return isinstance(value, Tensor) and value.dim() == rank and value.is_floating_point()


def is_features(value: Any) -> bool:
    """Whether `value` can be features or a layout."""
    return is_floating(value, 4)


def _first(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], fits: Callable[[Any], bool]
) -> Tensor | None:
    return next((value for value in (*args, *kwargs.values()) if fits(value)), None)


def _replaced(call: Call, features: Tensor) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of `call` with other features and everything else detached."""

    def exchange(value: Any) -> Any:
        if value is call.features:
            return features
        return value.detach() if isinstance(value, Tensor) else value

    args = [exchange(value) for value in call.args]
    return args, {name: exchange(value) for name, value in call.kwargs.items()}
