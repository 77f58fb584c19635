"""Refine what is seen inside the layout: LVRLoss."""

from torch import Tensor, nn

from alr_layers import _checks, functional
from alr_layers.kernels.dispatch import check_backend
from alr_layers.options import MASKS, NORMALIZATIONS, Backend, Mask, Normalization


class LVRLoss(nn.Module):
    """Make the masked features resemble the real ones, in value and in style (E10-E12).

        L_LVR = L_PR + L_SR
        L_PR = ‖M_Θ ⊙ h - M_Θ* ⊙ h*‖_F / (N * D)
        L_SR = ‖G(M_Θ ⊙ h) - G(M_Θ* ⊙ h*)‖_F / (N * D),  G(x) = x xᵀ

    No parameters.

    Args:
        mask: "soft", M = max over words of Θ, or "hard", 1 where that reaches the sample's mean
            and 0 elsewhere (our readings).
        normalization: "paper" divides both terms by N * D as printed; "rms" divides L_PR by
            √(N * D), which makes stages comparable, and leaves L_SR (our reading).
        detach_target: Θ* and h* are targets and receive no gradient (our reading; the printed
            formula does not say). False lets it through both.
        backend: "auto", "reference" or "fused"; None follows `use_backend`. Only "reference" can be
            differentiated twice.

    Example:
        >>> import torch
        >>> features, layout = torch.randn(2, 32, 8, 8), torch.rand(2, 12, 8, 8).softmax(1)
        >>> LVRLoss()(features, features, layout, layout)
        tensor(0.)
    """

    def __init__(
        self,
        *,
        mask: Mask = "soft",
        normalization: Normalization = "paper",
        detach_target: bool = True,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.mask: Mask = mask
        _checks.choice("mask", mask, MASKS)
        self.normalization: Normalization = normalization
        _checks.choice("normalization", normalization, NORMALIZATIONS)
        self.detach_target = _checks.flag("detach_target", detach_target)
        self.backend: Backend | None = backend
        check_backend(backend)

    def terms(
        self,
        features: Tensor,
        real_features: Tensor,
        layout: Tensor,
        real_layout: Tensor,
        lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The two summands of `forward`: {"perception", "style"}, arguments as there."""
        return functional.lvr_terms(
            features,
            real_features,
            layout,
            real_layout,
            mask=self.mask,
            normalization=self.normalization,
            detach_target=self.detach_target,
            backend=self.backend,
            lengths=lengths,
        )

    def forward(
        self,
        features: Tensor,
        real_features: Tensor,
        layout: Tensor,
        real_layout: Tensor,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """L_LVR, the mean over the batch.

        Args:
            features: h, (B, D, H, W).
            real_features: h*, the same shape.
            layout: Θ, (B, T, H, W).
            real_layout: Θ*, the same shape.
            lengths: (B,) integers in 1..T, for layouts that may leave mass on padded words: an
                error on the CPU, left out elsewhere, as in `ALRLoss`.

        Returns:
            A float32 scalar (float64 for float64).

        Raises:
            ValueError: shapes or devices do not fit, or a layout leaves mass on padded words.
            TypeError: a dtype does not fit.
        """
        terms = self.terms(features, real_features, layout, real_layout, lengths)
        return terms["perception"] + terms["style"]

    def extra_repr(self) -> str:
        """Options for the printed module."""
        return (
            f"mask={self.mask!r}, normalization={self.normalization!r}, "
            f"detach_target={self.detach_target}, backend={self.backend!r}"
        )
