"""Align the layout of the synthesized image with that of the real one: ALRModule and ALRLoss."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alr_layers import _checks, functional
from alr_layers.kernels import convolutions
from alr_layers.kernels.dispatch import check_backend, choose
from alr_layers.kernels.reference import padding_mask
from alr_layers.options import NORMALIZATIONS, Backend, Normalization


class LayoutOutput(NamedTuple):
    """What `ALRModule` returns: the word context (B, D, H, W) and the layout (B, T, H, W)."""

    context: Tensor
    layout: Tensor


class ALRModule(nn.Module):
    """Word context and layout of a stage's features: the part that stays at inference (E1-E3).

    Compares the stage's *input* features h_{i-1} with the words (our reading), the host then
    concatenates the context with them. The softmax runs over the real words of each region, as in
    AttnGAN (our reading).

    Args:
        feature_dim: D, channels of the features.
        word_dim: C, channels of the words.
        backend: "auto", "reference" or "fused"; None follows `use_backend`.

    Example:
        >>> import torch
        >>> alr = ALRModule(32, 256)
        >>> features, words = torch.randn(2, 32, 8, 8), torch.randn(2, 256, 18)
        >>> context, layout = alr(features, words, torch.tensor([18, 7]))
        >>> context.shape, layout.shape
        (torch.Size([2, 32, 8, 8]), torch.Size([2, 18, 8, 8]))
    """

    def __init__(self, feature_dim: int, word_dim: int, *, backend: Backend | None = None) -> None:
        super().__init__()
        self.feature_dim = _checks.count("feature_dim", feature_dim)
        self.word_dim = _checks.count("word_dim", word_dim)
        self.backend: Backend | None = backend
        check_backend(backend)
        self.word_projection = nn.Conv1d(word_dim, feature_dim, 1, bias=False)

    @classmethod
    def from_conv(cls, weight: Tensor, *, backend: Backend | None = None) -> "ALRModule":
        """Build the module on a host's trained word projection.

        Args:
            weight: a copy of it becomes U; (D, C, 1, 1) as AttnGAN's `conv_context.weight`, or
                (D, C, 1) or (D, C).
            backend: as for the constructor.

        Raises:
            ValueError: not of such a shape.
            TypeError: not a floating tensor.

        Example:
            >>> import torch
            >>> ALRModule.from_conv(torch.nn.Conv2d(256, 32, 1, bias=False).weight)
            ALRModule(
              feature_dim=32, word_dim=256, backend=None
              (word_projection): Conv1d(256, 32, kernel_size=(1,), stride=(1,), bias=False)
            )
        """
        if not isinstance(weight, Tensor):
            raise TypeError(f"weight is a {type(weight).__name__}, expected a tensor (D, C, 1, 1)")
        if not weight.is_floating_point():
            raise TypeError(f"weight has dtype {weight.dtype}, expected a floating dtype")
        if weight.dim() < 2 or any(size != 1 for size in weight.shape[2:]):
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}, expected (D, C, 1, 1): that of a 1x1"
                " convolution"
            )
        module = cls(*weight.shape[:2], backend=backend).to(weight)
        with torch.no_grad():
            module.word_projection.weight.copy_(weight.reshape(*weight.shape[:2], 1))
        return module

    def _project(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """ŵ = U w. Padded words are emptied first, or their NaN would reach U's gradient."""
        _checks.floating("features", features, "B, D, H, W")
        _checks.floating("words", words, "B, C, T")
        _checks.channels("features", features, self.feature_dim, "feature_dim of ALRModule")
        _checks.word_features(words, self.word_dim)
        _checks.same_sizes("words", words, "features", features, "0", "B")
        _checks.same_device(features=features, words=words)
        weight = self.word_projection.weight
        _checks.beside_weights("features", features, "ALRModule", weight)
        _checks.caption_lengths(lengths, "words", words)
        words = words.masked_fill(padding_mask(lengths, words.shape[2]), 0)
        projected: Tensor = self.word_projection(words.to(weight.dtype))
        return projected

    def forward(self, features: Tensor, words: Tensor, lengths: Tensor) -> LayoutOutput:
        """Context and layout of `features`.

        Args:
            features: h, (B, D, H, W).
            words: w, (B, C, T), right-padded; what stands in the padding does not matter.
            lengths: (B,) integers in 1..T, the real words of each caption.

        Returns:
            context (B, D, H, W) and layout (B, T, H, W), in the dtype of `features`.

        Raises:
            ValueError: shapes or devices do not fit, or a length is out of range.
            TypeError: a dtype does not fit.
        """
        projected = self._project(features, words, lengths)
        return LayoutOutput(
            *functional.layout_context(features, projected, lengths, backend=self.backend)
        )

    def layout(self, features: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """The layout alone, (B, T, H, W): Θ* when `features` are those of a real image."""
        projected = self._project(features, words, lengths)
        return functional.semantic_similarity(features, projected, lengths, backend=self.backend)

    def extra_repr(self) -> str:
        """Sizes for the printed module."""
        return f"feature_dim={self.feature_dim}, word_dim={self.word_dim}, backend={self.backend!r}"


class WeightStack(nn.Module):
    """φ of E8: two 3x3 convolutions with an activation between them and a sigmoid at the end.

    The paper says "convolutions and activations"; two layers of K channels are our reading.

    Args:
        channels: K, in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, gated: Tensor, *, backend: Backend | None = None) -> Tensor:
        """Weights in (0, 1).

        Args:
            gated: R ⊙ h*, (B, K, H, W), or its first L <= K channels if the others are zero: the
                first convolution leaves those out, which changes nothing.
            backend: where the op that gates would run fused, the map between the convolutions is
                computed again in the backward pass instead of kept; None follows `use_backend`.

        Returns:
            (B, K, H, W).
        """
        if gated.shape[1] > self.channels:
            raise ValueError(
                f"gated has {gated.shape[1]} channels, expected at most K = {self.channels}"
            )
        live = self.first.weight[:, : gated.shape[1]]
        # Before the convolution would do it itself, so that what is kept is what it reads.
        gated = gated.to(convolutions.convolved_dtype(live))
        on_cpu = gated.device.type == "cpu"
        if on_cpu:
            # oneDNN would reorder every tensor of both convolutions, forward and backward: turning
            # what goes in and what comes out is much cheaper.
            gated = gated.contiguous(memory_format=torch.channels_last)
        fused = choose("gated_residual", (gated,), backend) == "fused"
        scores = convolutions.scores_kept_lean if fused else convolutions.scores
        weights = scores(gated, live, self.first.bias, self.second.weight, self.second.bias)
        return (weights.contiguous() if on_cpu else weights).sigmoid_()


class ALRLoss(nn.Module):
    """Pull the layout towards the real one, easy and hard elements weighed apart (E5-E9).

        R = |Θ* - Θ|,  R_easy = R where R < γ, R_hard = R where R >= γ
        α = φ_α(R_easy ⊙ h*),  β = φ_β(R_hard ⊙ h*)
        L_ALR = (‖α ⊙ R_easy‖_F + ‖β ⊙ R_hard‖_F + softplus(max α - min β)) / (N * D)

    The last term drives every hard weight above every easy one. It takes any pair of layouts with
    any features on their grid, not only those of `ALRModule`. A training-only module: give its
    parameters to the generator's optimiser, and its loss to `TermBalance`, since as printed it is
    far smaller than an adversarial loss.

    Args:
        feature_dim: D, channels of the real features.
        max_words: the largest T to expect; K = max(D, max_words) channels. None is `feature_dim`.
        gamma: γ in [0, 1]. The paper gives none; 0.1 is our reading.
        normalization: "paper" divides all by N * D as printed; "rms" divides the two norms by
            √(N * D) and the softplus term by 1, which makes stages comparable (our reading).
        detach_target: Θ* and h* are targets and receive no gradient (our reading; the printed
            formula does not say). False lets it through both.
        backend: "auto", "reference" or "fused"; None follows `use_backend`. Only "reference" can be
            differentiated twice. Where the ops run fused, φ keeps its input and output alone for
            the backward pass, and computes its first convolution again there.

    Example:
        >>> import torch
        >>> layout, real = (torch.rand(2, 12, 8, 8).softmax(1) for _ in range(2))
        >>> loss = ALRLoss(32)
        >>> sorted(loss.terms(layout, real, torch.randn(2, 32, 8, 8)))
        ['easy', 'hard', 'order']
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        max_words: int | None = None,
        gamma: float = 0.1,
        normalization: Normalization = "paper",
        detach_target: bool = True,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.feature_dim = _checks.count("feature_dim", feature_dim)
        self.max_words = None if max_words is None else _checks.count("max_words", max_words)
        self.gamma = _checks.threshold(gamma)
        self.normalization: Normalization = normalization
        _checks.choice("normalization", normalization, NORMALIZATIONS)
        self.detach_target = _checks.flag("detach_target", detach_target)
        self.backend: Backend | None = backend
        check_backend(backend)
        channels = max(feature_dim, max_words or 0)
        self.phi_easy = WeightStack(channels)
        self.phi_hard = WeightStack(channels)

    def _check_words(self, words: int) -> None:
        limit = self.feature_dim if self.max_words is None else self.max_words
        if words > limit:
            reason = "feature_dim, as max_words is None" if self.max_words is None else "max_words"
            raise ValueError(
                f"layout has T = {words} words, more than {limit} ({reason}); build the loss with"
                f" max_words={words} or more (K = max(feature_dim, max_words) channels)"
            )

    def _weighing(self, phi: nn.Module, features: Tensor) -> Callable[[Tensor], Tensor]:
        """A φ that follows the loss's backend; one put in place of ours takes its input alone."""
        if not isinstance(phi, WeightStack):
            return phi
        _checks.beside_weights("real_features", features, "ALRLoss", phi.first.weight)
        return partial(phi, backend=self.backend)

    def terms(
        self,
        layout: Tensor,
        real_layout: Tensor,
        real_features: Tensor,
        lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The three summands of `forward`: {"easy", "hard", "order"}, arguments as there."""
        _checks.floating("real_features", real_features, "B, D, H, W")
        _checks.channels("real_features", real_features, self.feature_dim, "feature_dim of ALRLoss")
        _checks.floating("layout", layout, "B, T, H, W")
        self._check_words(layout.shape[1])
        return functional.alr_terms(
            layout,
            real_layout,
            real_features,
            self._weighing(self.phi_easy, real_features),
            self._weighing(self.phi_hard, real_features),
            gamma=self.gamma,
            normalization=self.normalization,
            detach_target=self.detach_target,
            backend=self.backend,
            lengths=lengths,
        )

    def forward(
        self,
        layout: Tensor,
        real_layout: Tensor,
        real_features: Tensor,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """L_ALR, the mean over the batch.

        Args:
            layout: Θ, (B, T, H, W), T <= max_words.
            real_layout: Θ*, the same shape.
            real_features: h*, (B, D, H, W).
            lengths: (B,) integers in 1..T, for layouts that may leave mass on padded words (a
                masked attention of one's own): such mass is an error on the CPU and is left out
                elsewhere, where looking at it would wait for the device.

        Returns:
            A float32 scalar (float64 for float64).

        Raises:
            ValueError: shapes or devices do not fit, T exceeds `max_words`, or a layout leaves mass
                on padded words.
            TypeError: a dtype does not fit.
        """
        terms = self.terms(layout, real_layout, real_features, lengths)
        return terms["easy"] + terms["hard"] + terms["order"]

    def extra_repr(self) -> str:
        """Options for the printed module."""
        return (
            f"feature_dim={self.feature_dim}, max_words={self.max_words}, gamma={self.gamma}, "
            f"normalization={self.normalization!r}, detach_target={self.detach_target}, "
            f"backend={self.backend!r}"
        )
