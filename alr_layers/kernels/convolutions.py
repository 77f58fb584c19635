"""φ's convolutions (E8), as they are and for the fused path: the map between them is not kept.

That map has K channels where what goes in has L = min(T, D) <= K: it was a third and more of all
that a step of the fused loss path kept. Computing it again is the first convolution once more, L K
beside the 3 L K + 3 K² of a forward and backward pass (an eighth at D 32, T 18): memory is bought
with time here. What comes out is the same to the bit, and can be differentiated twice.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, leaky_relu_
from torch.utils.checkpoint import checkpoint


def convolved_dtype(weight: Tensor) -> torch.dtype:
    """What a convolution with this weight computes in: autocast's dtype where that applies."""
    kind = weight.device.type
    # The meta device knows no autocast, and autocast leaves float64 alone.
    if kind == "meta" or weight.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def scores(
    gated: Tensor,
    first_weight: Tensor,
    first_bias: Tensor | None,
    second_weight: Tensor,
    second_bias: Tensor | None,
) -> Tensor:
    """φ without its last sigmoid: two 3x3 convolutions with a leaky ReLU between them.

    Args:
        gated: R ⊙ h*, (B, L, H, W).
        first_weight: (K, L, 3, 3).
        first_bias: (K,), or none.
        second_weight: (K, K, 3, 3).
        second_bias: (K,), or none.

    Returns:
        (B, K, H, W).
    """
    # In place: no backward pass needs what goes into an activation, and it need not be kept.
    middle = leaky_relu_(conv2d(gated, first_weight, first_bias, padding=1), 0.2)
    return conv2d(middle, second_weight, second_bias, padding=1)


def scores_kept_lean(*tensors: Tensor | None) -> Tensor:
    """`scores`, keeping its arguments alone for the backward pass; arguments as there.

    They are handed over one by one, so that each is saved, and checked for being overwritten, as
    autograd does it. The second convolution is not computed again: nothing needs its result.
    """
    found: Tensor = checkpoint(scores, *tensors, use_reentrant=False, preserve_rng_state=False)
    return found
