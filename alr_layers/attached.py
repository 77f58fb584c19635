"""The refinement of all stages of somebody else's generator: AttachedRefinement."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.hooks import RemovableHandle

from alr_layers import _checks
from alr_layers._stage_host import StageHook, StageHost
from alr_layers.balance import TermBalance
from alr_layers.refinement import LayoutRefinement

TERMS = ("alr", "reconstruction", "lvr")


class AttachedRefinement(nn.Module):
    """What `attach` returns: the refinement of all stages of a generator, with its balance.

    Made for AttnGAN, DM-GAN and their kin: stages `h_net2`, `h_net3`, ... called with features
    (B, D, H, W) among their arguments, returning twice the grid, and image heads `img_net1`, ... A
    stage that returns an attention map (B, T, H, W) beside its features gives Θ itself; for others
    (StackGAN++) an `ALRModule` is brought along that lives in training only. With
    decode="generator" any generator will do in which a module reads h (DF-GAN, SSA-GAN).

    Hooks on the stages note h and Θ of the generator's own pass; h* is decoded by calling the stage
    (or the generator) again the way it was called. Passes without gradients are not looked at. Call
    it once per step of the generator, after the host's loss is summed and before it is
    differentiated:

        loss = refinement(loss, real_images, step=step)

    Before the balance's `start` training is the host's to the bit: not even a random number is
    drawn from its streams. `state_dict()` holds encoders, φ and scales, and belongs into the
    checkpoint; of the generator it holds nothing. Under DDP wrap generator and refinement each, the
    latter with find_unused_parameters=True if there is a `start`.
    """

    def __init__(
        self,
        generator: nn.Module,
        hosts: Sequence[StageHost],
        refinements: Sequence[LayoutRefinement],
        balance: TermBalance,
    ) -> None:
        super().__init__()
        # Tuples hide the generator from nn.Module's registration.
        self._host, self._stages = (generator,), tuple(hosts)
        self.sources = nn.ModuleList(host.own for host in hosts if host.own is not None)
        self.refinements = nn.ModuleList(refinements)
        self.balance = balance
        self._step: int | None = None
        self._handles: list[RemovableHandle] = []
        self._register()

    def _register(self) -> None:
        """Hook generator and stages; hooks that a copy of them brought along are dropped."""
        (generator,) = self._host
        for module in (generator, *(host.stage for host in self._stages)):
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key, hook in list(hooks.items()):
                    if isinstance(hook, StageHook) and hook.owner is None:
                        del hooks[key]
        begin = StageHook(self, None)
        self._handles = [generator.register_forward_pre_hook(begin, with_kwargs=True)]
        for index, host in enumerate(self._stages):
            hook = StageHook(self, index)
            self._handles.append(host.stage.register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks off the generator again."""
        while self._handles:
            self._handles.pop().remove()

    def observe(
        self,
        index: int | None,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *output: Any,
    ) -> None:
        """Called by the hooks before every call of the generator and after those of its stages."""
        if getattr(module, "_is_replica", False):
            raise RuntimeError(
                "attach cannot follow a generator that DataParallel splits over several devices:"
                " use one device, or DistributedDataParallel"
            )
        if index is None:
            for host in self._stages:
                host.begin(args, kwargs)
        else:
            self._stages[index].observe(args, kwargs, *output)

    def forward(
        self,
        host_loss: Tensor,
        real_images: Tensor | Sequence[Tensor],
        *,
        step: int,
        words: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The loss to differentiate: the host's and the balanced terms of every stage.

        At the first call of a new step the refinement's own gradients are emptied, so that a host
        which only calls `netG.zero_grad()` does not pile them up.

        Args:
            host_loss: the host's whole loss of the images of its last pass, a scalar.
            real_images: the real images in [-1, 1], as the pyramid that the discriminators see
                (any order) or the largest alone; a size that is missing is made by resizing.
            step: the number of this step of the generator, counted from 0.
            words: w, (B, C, T), where the stages have no attention of their own.
            lengths: (B,) integers in 1..T, likewise.

        Raises:
            RuntimeError: the generator has not run, or not with gradients.
            ValueError: shapes do not fit, `words` or `lengths` are missing, or see `TermBalance`.
        """
        if step != self._step:
            self._step = step
            self.zero_grad(set_to_none=True)
        try:
            if not any(self.balance.weight(name, step) for name in TERMS):
                return host_loss
            terms = self.terms(real_images, words=words, lengths=lengths)
            loss: Tensor = self.balance(
                host_loss,
                terms,
                at=[host.call.features for host in self._stages if host.call is not None],
                step=step,
                anchors=[{"reconstruction": host.anchor()} for host in self._stages],
            )
            return loss
        finally:
            for host in self._stages:
                host.finish()

    def terms(
        self,
        real_images: Tensor | Sequence[Tensor],
        *,
        words: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> list[dict[str, Tensor]]:
        """The unweighted terms of every stage, for a balance of one's own; as `forward`."""
        pyramid = [real_images] if isinstance(real_images, Tensor) else list(real_images)
        if not pyramid:
            raise ValueError("real_images is empty, expected tensors (B, 3, H, W) of several sizes")
        for images in pyramid:
            _checks.floating("real_images", images, "B, 3, H, W")
        found = []
        for host, refinement in zip(self._stages, self.refinements, strict=True):
            if host.call is None:
                raise RuntimeError(
                    "the generator has not run with gradients since the last step: call it as ever,"
                    " and the refinement after it (a compiled one: attach before its first call)"
                )
            features = host.call.features
            own = (words, lengths) if host.own is not None else _unused(host, features)
            if own[0] is None or own[1] is None:
                raise ValueError(
                    f"{type(host.stage).__name__} has no attention of its own: hand over words"
                    " (B, C, T) and lengths (B,), refine(loss, images, step=..., words=...,"
                    " lengths=...)"
                )
            images = _of_size(pyramid, *(side * host.downsample for side in features.shape[2:]))
            found.append(refinement(features, host.fake_layout(*own), images, *own))
        return found

    def extra_repr(self) -> str:
        """What belongs to the host, for the printed module."""
        return f"generator={type(self._host[0]).__name__} (the host's)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._register()


def _unused(host: StageHost, features: Tensor) -> tuple[Tensor, Tensor]:
    """Words and lengths for a stage that gives layouts itself and looks at neither."""
    words = host.words()
    if words is None:
        words = host.fake_layout(None, None).flatten(2).transpose(1, 2)
    return words, torch.full((len(features),), words.shape[2], device=features.device)


def _of_size(pyramid: list[Tensor], height: int, width: int) -> Tensor:
    """The real images of that size, resized from the largest where there are none."""
    for images in pyramid:
        if images.shape[2:] == (height, width):
            return images
    largest = max(pyramid, key=lambda images: images.shape[2])
    return interpolate(
        largest, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
