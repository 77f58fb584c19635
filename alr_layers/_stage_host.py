"""One refinement stage of somebody else's generator: what a hook sees of it, and how it decodes."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alr_layers.alr import ALRModule
from alr_layers.options import Decode


class Call(NamedTuple):
    """What a stage was called with in the generator's own pass, and what it returned."""

    features: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


class Inputs(NamedTuple):
    """What the generator itself was called with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class StageHook:
    """Tells its owner of every call of a stage. Copied or pickled with the generator, it is dead.

    The owner is held weakly: a generator keeps nothing of the refinement alive.
    """

    def __init__(self, owner: Any = None, index: int | None = None) -> None:
        self._owner = None if owner is None else weakref.ref(owner)
        self._index = index
        if owner is not None:
            # Breaks the graph of a compiled generator here: h must be a tensor that it goes on
            # with, not a copy that the compiled graph hands out besides. Not as a decorator, which
            # would load the compiler with the library.
            disable: Callable[[Any], Any] = torch.compiler.disable
            self._tell = disable(self._tell)  # type: ignore[method-assign]  # this owner's alone

    @property
    def owner(self) -> Any:
        """The refinement to tell, or None."""
        return None if self._owner is None else self._owner()

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *output: Any
    ) -> None:
        """A forward hook, or pre-hook, with keyword arguments."""
        self._tell(module, args, kwargs, *output)

    def _tell(self, *call: Any) -> None:
        owner = self.owner
        if owner is not None:
            owner.observe(self._index, *call)

    def __reduce__(self) -> tuple[type["StageHook"], tuple[()]]:
        return StageHook, ()


class StageHost:
    """A stage of a generator as layout source and decoder of `LayoutRefinement`.

    Decoding calls what the generator called in its last pass, with h* in the place of h and all
    else detached: L_REC trains what lies behind h, and the encoder.

    Args:
        generator: the network as a whole.
        stage: what reads h, and whatever else the generator hands over to it. Returns the next
            features, alone or before the layout (B, T, H, W) in a tuple.
        head: maps features to images; None where decode is "generator".
        feature_dim: D of h.
        own: the module that gives layouts where the stage has none.
        decode: what turns h* into an image: the stage and the head, the head alone, or the whole
            generator, called anew with h* handed to the stage.
        downsample: how much larger than the grid of h the decoded images are.
    """

    def __init__(
        self,
        generator: nn.Module,
        stage: nn.Module,
        head: nn.Module | None,
        *,
        feature_dim: int,
        own: ALRModule | None,
        decode: Decode,
        downsample: int,
    ) -> None:
        self.generator, self.stage, self.head, self.own = generator, stage, head, own
        self.feature_dim, self.by, self.downsample = feature_dim, decode, downsample
        self.call: Call | None = None
        self.inputs: Inputs | None = None
        self.busy = False
        self._ran: tuple[Tensor, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"call": None, "inputs": None, "busy": False, "_ran": None}

    def anchor(self) -> Tensor:
        """A weight that both the host's loss and L_REC reach."""
        reached = self.head if self.by == "head" and self.head is not None else self.stage
        weights = list(reached.parameters())
        return next((weight for weight in weights if weight.requires_grad), weights[0])

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the generator is called with in its own pass."""
        if not self.busy and torch.is_grad_enabled():
            self.inputs = Inputs(args, kwargs)

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
        if self.by == "generator":
            return self._replay(features)
        assert self.head is not None
        if self.by == "head":
            read = features
        else:
            output = self._run(features)
            read = output if isinstance(output, Tensor) else output[0]
        image: Tensor = self._guarded(self.head, read)
        return image

    def finish(self) -> None:
        """Let go of the last pass and of its graph."""
        self.call = self.inputs = self._ran = None

    def _replay(self, features: Tensor) -> Tensor:
        """The generator called again; what it computes before the stage is thrown away."""
        assert self.call is not None and self.inputs is not None
        args, kwargs = exchanged(*self.inputs)

        def hand_over(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            own = _first(args, kwargs, is_features)
            return exchanged(args, kwargs, {id(own): features})

        handle = self.stage.register_forward_pre_hook(hand_over, with_kwargs=True)
        devices = [features.device] if features.device.type == "cuda" else []
        try:
            # Noise that the generator draws inside must not move the host's random streams.
            with torch.random.fork_rng(devices=devices):
                output = self._guarded(self.generator, *args, **kwargs)
        finally:
            handle.remove()
        images = [part for part in _flat(output) if is_features(part) and part.shape[1] == 3]
        if not images:
            raise TypeError(
                f"{type(self.generator).__name__} returns no images (B, 3, H, W) to compare with"
                " the real ones; wire LayoutRefinement explicitly"
            )
        largest: Tensor = max(images, key=lambda image: int(image.shape[2]))
        return largest

    def _run(self, features: Tensor) -> Any:
        """What the stage returns for `features`; once for the layout and the image of the same."""
        if self._ran is None or self._ran[0] is not features:
            assert self.call is not None
            own = {id(self.call.features): features}
            args, kwargs = exchanged(self.call.args, self.call.kwargs, own)
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


def exchanged(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], new: Mapping[int, Tensor] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with the tensors in `new` (by id) exchanged and all others detached."""

    def exchange(value: Any) -> Any:
        if new is not None and id(value) in new:
            return new[id(value)]
        return value.detach() if isinstance(value, Tensor) else value

    return tuple(map(exchange, args)), {name: exchange(value) for name, value in kwargs.items()}


def _flat(value: Any) -> Iterator[Any]:
    """The parts of nested tuples, lists and mappings."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _flat(part)
    else:
        yield value
