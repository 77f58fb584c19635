"""All of one stage in one call: LayoutRefinement (E4-E12)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from alr_layers import _checks
from alr_layers._host import check_pickling, networks_in, twin_of
from alr_layers._images import RangeCheck
from alr_layers.alr import ALRLoss
from alr_layers.encoder import LayoutEncoder
from alr_layers.lvr import LVRLoss
from alr_layers.statistics import all_frozen, keeps_statistics

Decoder: TypeAlias = Callable[..., Tensor]

TERMS = ("easy", "hard", "order", "reconstruction", "perception", "style")


@runtime_checkable
class LayoutSource(Protocol):
    """Gives layouts of any features, the host's or those of real images; `ALRModule` is one.

    What `LayoutRefinement` needs of its `module`: an attention of the host's own will do, or a
    frozen matching model, as long as real and synthesized features go through the same one.
    """

    @property
    def feature_dim(self) -> int:
        """D, channels of the features that it reads."""

    def layout(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """Θ of features: (B, D, H, W), (B, C, T), (B,) -> (B, T, H, W), 1 in sum over words."""


class LayoutRefinement(nn.Module):
    """Everything one stage of a host needs in training, E4-E12, as unweighted terms.

    Encodes the real images, takes their layout with the host's own words and projection, decodes
    them with the host's own generator, and compares:

        h* = E(I*),  Θ* = layout(h*),  L_REC = mean |I* - G(h*)|,  L_ALR and L_LVR of Θ, Θ*, h, h*

    As printed the terms differ from a host's loss by orders of magnitude: hand them to
    `TermBalance` rather than sum them.

    `module` and `decode` belong to the host and are not registered here: they are in neither
    `state_dict()` nor `parameters()` nor moved by `.to()`. Copied or pickled together with the
    host they stay tied to it; a `decode` that pickle cannot store (a local function, one that uses
    globals) is refused by name.

    Where E4 leaves "the generator as decoder" open, `decode` supports both readings: the image
    head that reads h_{i-1} (an encoder with downsample=1, images of the grid's size), or the whole
    refinement stage (downsample=2, images of twice that size).

    While real features pass the host, its running statistics are kept as `frozen_statistics` does:
    inference would otherwise use a mixture of real and synthesized ones.

    Works with DDP around host and refinement each, gradient accumulation, and a compiled host. Not
    with DataParallel around the refinement, which would split it from the host.

    Args:
        module: the stage's `ALRModule`, or any `LayoutSource`.
        decode: decode(real_features, words, lengths, *decode_args) -> images of the size of
            `real_images`.
        use_lvr: whether to compute E10-E12; if not, `lvr` is left out.
        alr: the loss of E5-E9; None is `ALRLoss(module.feature_dim)`.
        lvr: the loss of E10-E12; None is `LVRLoss()`.
        encoder: images -> features; None is `LayoutEncoder(module.feature_dim)`.
        host: the network (or networks) whose running statistics stay. None finds those that
            `decode` reaches: a network, a method of one, or the closure and globals of a function.

    Raises:
        TypeError: `module` gives no layouts, `decode` is no callable, `alr` no `ALRLoss`.
        ValueError: `alr` or `encoder` was built for another `feature_dim` than `module`.

    Example:
        >>> import torch
        >>> from alr_layers import ALRModule
        >>> module, head = ALRModule(32, 256), torch.nn.Conv2d(32, 3, 3, padding=1)
        >>> refine = LayoutRefinement(module, decode=lambda h, words, lengths: head(h))
        >>> features, images = torch.randn(2, 32, 8, 8), torch.randn(2, 3, 8, 8).tanh()
        >>> words, lengths = torch.randn(2, 256, 12), torch.tensor([12, 5])
        >>> context, layout = module(features, words, lengths)
        >>> sorted(refine(features, layout, images, words, lengths))
        ['alr', 'lvr', 'reconstruction']
    """

    def __init__(
        self,
        module: LayoutSource,
        *,
        decode: Decoder,
        use_lvr: bool = True,
        alr: ALRLoss | None = None,
        lvr: LVRLoss | None = None,
        encoder: nn.Module | None = None,
        host: nn.Module | Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        _checks.flag("use_lvr", use_lvr)
        _check_parts(module, decode, alr, lvr if use_lvr else None, encoder)
        # A tuple hides modules from nn.Module's registration.
        self._host = (module, decode)
        self._given = None if host is None else _networks(host)
        self._frozen: tuple[nn.Module, ...] = ()
        self._warned: set[str] = set()
        self._compare_ranges = RangeCheck()
        self.alr = ALRLoss(module.feature_dim) if alr is None else alr
        self.lvr = (LVRLoss() if lvr is None else lvr) if use_lvr else None
        self.encoder = LayoutEncoder(module.feature_dim) if encoder is None else encoder
        self._find_statistics()

    def _find_statistics(self) -> bool:
        """Note which networks must keep their statistics; False if no network is found at all."""
        module, decode = self._host
        found = networks_in(decode) if self._given is None else self._given
        sources = (module,) if isinstance(module, nn.Module) else ()
        self._frozen = tuple(filter(keeps_statistics, (*found, *sources)))
        return bool(found) or self._given is not None

    def _prepare(self, words: Tensor) -> None:
        """What is done before real features pass the host, none of it under a compiler."""
        if getattr(self, "_is_replica", False):
            raise RuntimeError(
                "LayoutRefinement cannot run inside DataParallel, which copies it away from the"
                " host: wrap the host alone, or use DistributedDataParallel for both"
            )
        if torch.compiler.is_compiling():
            return
        # Anew in every step: what a function finds among its globals may have been replaced.
        if not self._find_statistics():
            self._warn_once(
                "decode holds no network that can be found from outside, so running statistics of"
                " batch norms may take in real features; name it, LayoutRefinement(..., host=netG)"
            )
        if words.dim() == 3 and words.shape[2] == 1:
            self._warn_once(
                "words has T = 1: with one word Θ is 1 everywhere and ALR has nothing to align."
                " A sentence vector is not enough, hand over word embeddings (B, C, T)"
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _checks.warn(message)

    def real_branch(
        self, real_images: Tensor, words: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(h*, Θ*) of real images, (B, D, H, W) and (B, T, H, W), for `terms` and pictures."""
        self._prepare(words)
        real_features = self.encoder(real_images)
        with all_frozen(self._frozen):
            return real_features, self._host[0].layout(real_features, words, lengths)

    def terms(
        self,
        features: Tensor,
        layout: Tensor,
        real_images: Tensor,
        words: Tensor,
        lengths: Tensor,
        *,
        decode_args: Sequence[Any] = (),
        real: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Every summand by name: "easy", "hard", "order", "reconstruction", "perception", "style".

        Arguments as `forward`, and `real`, the result of `real_branch` where the caller already has
        it. `total` makes of them what `forward` returns. The last two need `use_lvr`.
        """
        _checks.floating("features", features, "B, D, H, W")
        _checks.floating("layout", layout, "B, T, H, W")
        _checks.floating("real_images", real_images, "B, 3, H, W")
        feature_dim = self._host[0].feature_dim
        _checks.channels("features", features, feature_dim, "feature_dim of module")
        _checks.same_sizes("layout", layout, "features", features, "023", "B and grid")
        _checks.same_sizes("real_images", real_images, "features", features, "0", "B")
        _checks.same_device(features=features, real_images=real_images)
        if real is None:
            real = self.real_branch(real_images, words, lengths)
        real_features = real[0]
        if real_features.shape != features.shape:
            raise ValueError(
                f"the encoder turns real_images of shape {tuple(real_images.shape)} into features"
                f" of shape {tuple(real_features.shape)}, expected {tuple(features.shape)} like"
                f" features; choose downsample so that the grids agree, or where no power of two"
                f" does, LayoutEncoder(..., grid={tuple(features.shape[2:])})"
            )
        terms = self.comparison(features, layout, real)
        decoded = (real_images, real_features, words, lengths, decode_args)
        terms["reconstruction"] = self.reconstruction(*decoded)
        return {name: terms[name] for name in TERMS if name in terms}

    def comparison(
        self, features: Tensor, layout: Tensor, real: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """The summands of L_ALR and L_LVR, by name; `real` is the result of `real_branch`."""
        real_features, real_layout = real
        terms = self.alr.terms(layout, real_layout, real_features)
        if self.lvr is not None:
            terms |= self.lvr.terms(features, real_features, layout, real_layout)
        return terms

    def reconstruction(
        self,
        real_images: Tensor,
        real_features: Tensor,
        words: Tensor,
        lengths: Tensor,
        decode_args: Sequence[Any] = (),
    ) -> Tensor:
        """L_REC of E4; its gradient reaches the encoder and whatever `decode` holds.

        Arguments as `forward`; `real_features` are h* of `real_branch`. It shares no graph with the
        host's losses: where memory is short, differentiate it before them.
        """
        if not isinstance(decode_args, (tuple, list)):
            raise TypeError(
                f"decode_args is a {type(decode_args).__name__}, expected a tuple of what decode"
                " takes beyond real_features, words and lengths: decode_args=(condition,)"
            )
        with all_frozen(self._frozen):
            decoded = self._host[1](real_features, words, lengths, *decode_args)
        if not isinstance(decoded, Tensor):
            parts = f" of {len(decoded)}" if isinstance(decoded, (tuple, list)) else ""
            raise TypeError(
                f"decode returned a {type(decoded).__name__}{parts}, expected a tensor of images:"
                " let it return the images alone"
            )
        if decoded.shape != real_images.shape:
            raise ValueError(
                f"decode returned images of shape {tuple(decoded.shape)}, expected"
                f" {tuple(real_images.shape)} like real_images; check downsample, the side of the"
                " images over that of the features"
            )
        self._compare_ranges(real_images, decoded)
        dtype = torch.promote_types(real_images.dtype, torch.float32)
        return (real_images.to(dtype) - decoded.to(dtype)).abs().mean()

    @staticmethod
    def total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `forward` returns, from what `terms` returns."""
        totals = {
            "alr": terms["easy"] + terms["hard"] + terms["order"],
            "reconstruction": terms["reconstruction"],
        }
        if "perception" in terms:
            totals["lvr"] = terms["perception"] + terms["style"]
        return totals

    def forward(
        self,
        features: Tensor,
        layout: Tensor,
        real_images: Tensor,
        words: Tensor,
        lengths: Tensor,
        *,
        decode_args: Sequence[Any] = (),
    ) -> dict[str, Tensor]:
        """L_ALR, L_REC and L_LVR of one stage, unweighted.

        Args:
            features: h, (B, D, H, W), the features the host's ALR module read.
            layout: Θ, (B, T, H, W), what it returned.
            real_images: I*, (B, 3, H * s, W * s) with s the encoder's `downsample`, in the range in
                which `decode` draws, [-1, 1] as a rule: a mismatch is warned of once.
            words: w, (B, C, T).
            lengths: (B,) integers in 1..T; `lengths_from_mask` makes them of a mask.
            decode_args: what `decode` needs of this step besides, appended to its arguments: the
                condition, the noise, a mask. Detach what L_REC shall not train.

        Returns:
            {"alr", "reconstruction", "lvr"}, scalars; "lvr" only with `use_lvr`.

        Raises:
            ValueError: shapes or devices do not fit, or encoder or `decode` give the wrong size.
            TypeError: a dtype does not fit, or `decode` returns something else than a tensor.
            RuntimeError: inside a replica of DataParallel.
        """
        inputs = (features, layout, real_images, words, lengths)
        return self.total(self.terms(*inputs, decode_args=decode_args))

    def __deepcopy__(self, memo: dict[int, Any]) -> "LayoutRefinement":
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        module, decode = self._host
        # The networks first: decode's copy then finds theirs in the memo.
        twin.__dict__["_host"] = (copy.deepcopy(module, memo), twin_of(decode, memo))
        for name, value in self.__dict__.items():
            if name != "_host":
                twin.__dict__[name] = copy.deepcopy(value, memo)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        check_pickling(self._host[1])
        return self.__dict__.copy()

    def extra_repr(self) -> str:
        """What belongs to the host, for the printed module."""
        module, decode = self._host
        name = getattr(decode, "__qualname__", type(decode).__name__)
        return f"module={type(module).__name__} (the host's), decode={name} (the host's)"


def _networks(host: nn.Module | Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    found = (host,) if isinstance(host, nn.Module) else tuple(host)
    for network in found:
        if not isinstance(network, nn.Module):
            raise TypeError(f"host holds a {type(network).__name__}, expected torch.nn.Module")
    return found


def _check_parts(
    module: object, decode: object, alr: object, lvr: object, encoder: nn.Module | None
) -> None:
    """The parts are of the right kind and were built for the same features."""
    if not isinstance(module, LayoutSource) or not isinstance(module.feature_dim, int):
        raise TypeError(
            f"module is a {type(module).__name__}, expected an ALRModule or another LayoutSource,"
            " with an integer feature_dim and layout(features, words, lengths)"
        )
    if not callable(decode):
        raise TypeError(f"decode is a {type(decode).__name__}, expected a callable")
    for name, loss, kind in (("alr", alr, ALRLoss), ("lvr", lvr, LVRLoss)):
        if loss is not None and not isinstance(loss, kind):
            raise TypeError(f"{name} is a {type(loss).__name__}, expected {kind.__name__} or None")
    for name, part in (("alr", alr), ("encoder", encoder)):
        size = getattr(part, "feature_dim", module.feature_dim)
        if size != module.feature_dim:
            raise ValueError(
                f"{name} was built for {size} channels, module for {module.feature_dim}: build"
                f" {name} with feature_dim={module.feature_dim}"
            )
