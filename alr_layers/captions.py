"""Caption lengths from what hosts have: padding masks and CLIP tokens."""

import torch
from torch import Tensor

from alr_layers import _checks


def _integers(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a tensor (B, T)")
    if value.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected 2 dimensions (B, T)")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} has dtype {value.dtype}, expected bool or an integer dtype")
    if value.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected at least one word")


def lengths_from_mask(mask: Tensor, *, padding: bool) -> Tensor:
    """Count the real words of every caption in a mask.

    Args:
        mask: (B, T), bool or integers, real words before padding.
        padding: what True (or not 0) marks. True: padded words, as in AttnGAN's
            `mask = (captions == 0)`. False: real words, as in the `attention_mask` of BERT.

    Returns:
        lengths, (B,) int64 on the device of `mask`.

    Raises:
        ValueError: not (B, T); or, seen on the CPU only, a caption without a real word or with
            padding before a real word.
        TypeError: not a tensor of bool or integers.

    Example:
        >>> import torch
        >>> captions = torch.tensor([[4, 2, 7], [5, 0, 0]])
        >>> lengths_from_mask(captions == 0, padding=True)
        tensor([3, 1])
    """
    _integers("mask", mask)
    _checks.flag("padding", padding)
    real = (mask == 0) if padding else (mask != 0)
    lengths = real.sum(1)
    if _checks.readable(mask) and mask.numel():
        first = torch.arange(mask.shape[1]) < lengths[:, None]
        wrong = ((first != real).any(1) | (lengths == 0)).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(
                f"mask marks no real word, or padding before a real one, in row {wrong[0]}:"
                f" expected real words first; if True marks {'real' if padding else 'padded'}"
                f" words, say padding={not padding}"
            )
    return lengths


def lengths_from_clip_tokens(tokens: Tensor, *, end: int | None = None) -> Tensor:
    """Count the tokens of every caption up to its end-of-text token, that one included.

    Args:
        tokens: (B, T) token ids as CLIP's tokenizers return them, padded with 0 or with the end
            token itself.
        end: the id of the end token; None takes each row's highest id, as CLIP does (49407 in the
            released models).

    Returns:
        lengths, (B,) int64 on the device of `tokens`, for word features of the same T tokens.

    Raises:
        ValueError: not (B, T); or, seen on the CPU only, a row without the end token.
        TypeError: not a tensor of integers, or `end` is no integer.

    Example:
        >>> import torch
        >>> lengths_from_clip_tokens(torch.tensor([[49406, 320, 1929, 49407, 0, 0]]))
        tensor([4])
    """
    _integers("tokens", tokens)
    if tokens.dtype == torch.bool:
        raise TypeError("tokens has dtype torch.bool, expected token ids; see lengths_from_mask")
    if end is not None and (isinstance(end, bool) or not isinstance(end, int)):
        raise TypeError(f"end is a {type(end).__name__}, expected a token id or None")
    found = tokens == (tokens.amax(1, keepdim=True) if end is None else end)
    if _checks.readable(tokens):
        ends = found.any(1) if end is not None else _may_end(tokens, found)
        if not ends.all():
            named = "no end token" if end is None else f"no end token {end}"
            row = int(ends.int().argmin())
            raise ValueError(f"tokens has {named} in row {row}, expected one per caption")
    return found.int().argmax(1) + 1


def _may_end(tokens: Tensor, highest: Tensor) -> Tensor:
    """(B,): whether the highest id of a row can be an end, after which nothing but padding comes.

    Of a caption cut off before its end it is the start token, or any word.
    """
    after = (highest.cumsum(1) > 0) & ~highest
    return (tokens.amax(1) > 0) & ~(after & (tokens != 0)).any(1)
