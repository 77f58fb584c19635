"""Refine what is seen inside the layout: LVRLoss."""

from torch import Tensor, nn

from alr_layers import _checks, functional
from alr_layers.kernels.dispatch import check_backend


class LVRLoss(nn.Module):
    """Make the masked features resemble the real ones, in value and in style (E10-E12).

    L_LVR = L_PR + L_SR: the distance of M_Θ ⊙ h and M_Θ* ⊙ h*, and that of their Gram matrices. No
    parameters.

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
        mask: str = "soft",
        normalization: str = "paper",
        detach_target: bool = True,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.mask = _checks.choice("mask", mask, functional.MASKS)
        choices = functional.NORMALIZATIONS
        self.normalization = _checks.choice("normalization", normalization, choices)
        self.detach_target = detach_target
        self.backend = check_backend(backend)

    def terms(
        self, features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor
    ) -> dict[str, Tensor]:
        """The two summands of `forward`: {"perception", "style"}, arguments as there."""
        return functional.lvr_terms(
            features,
            real_features,
            layout,
            real_layout,
            self.mask,
            self.normalization,
            self.backend,
            detach_target=self.detach_target,
        )

    def forward(
        self, features: Tensor, real_features: Tensor, layout: Tensor, real_layout: Tensor
    ) -> Tensor:
        """L_LVR, the mean over the batch.

        Args:
            features: h, (B, D, H, W).
            real_features: h*, the same shape.
            layout: Θ, (B, T, H, W).
            real_layout: Θ*, the same shape.

        Returns:
            A float32 scalar (float64 for float64).

        Raises:
            ValueError: shapes or devices do not fit.
            TypeError: a dtype does not fit.
        """
        terms = self.terms(features, real_features, layout, real_layout)
        return terms["perception"] + terms["style"]

    def extra_repr(self) -> str:
        """Options for the printed module."""
        return (
            f"mask={self.mask!r}, normalization={self.normalization!r}, "
            f"detach_target={self.detach_target}, backend={self.backend!r}"
        )
