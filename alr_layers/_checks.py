"""Named errors for bad input, from metadata alone: no check waits for a device.

Values are looked at in one place, `lengths` on a CPU, and never while a compiler traces.
"""

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

# What a layer may compute in. Of 8 bits and less torch has the storage, not the arithmetic.
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# torch can neither compare nor promote the wider unsigned ones.
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LIBRARIES = (str(Path(__file__).parent), str(Path(torch.__file__).parent))


def warn(message: str) -> None:
    """A UserWarning that points at the line outside this library and torch that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(LIBRARIES):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(str(size) for size in tensor.shape)})"


def readable(value: Tensor) -> bool:
    """Whether values may be looked at: no device to wait for, no compiler at work."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


def floating(name: str, value: Tensor, legend: str) -> None:
    """A floating tensor with one dimension per entry of `legend`, e.g. "B, D, H, W"."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a tensor ({legend})")
    if value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else str(value.layout)
        raise TypeError(f"{name} is a {kind} tensor, expected a dense and padded one ({legend})")
    rank = len(legend.split(", "))
    if value.dim() != rank:
        raise ValueError(f"{name} has shape {_shape(value)}, expected {rank} dimensions ({legend})")
    if value.dtype not in FLOATING:
        cure = " of 16 bits or more" if value.is_floating_point() else ""
        raise TypeError(f"{name} has dtype {value.dtype}, expected a floating dtype{cure}")
    if 0 in value.shape[1:]:
        raise ValueError(
            f"{name} has shape {_shape(value)}, expected no empty dimension ({legend})"
        )


def same_sizes(
    name: str, value: Tensor, other_name: str, other: Tensor, dims: str, words: str
) -> None:
    """`value` agrees with `other` in `dims`, a string of digits such as "023"."""
    for dim in map(int, dims):
        if value.shape[dim] != other.shape[dim]:
            raise ValueError(
                f"{name} has shape {_shape(value)}, expected {other.shape[dim]} in dimension {dim}:"
                f" the same {words} as {other_name} of shape {_shape(other)}"
            )


def same_device(**tensors: Tensor) -> None:
    """All tensors lie on one device."""
    (first, reference), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.device != reference.device:
            raise ValueError(
                f"{name} is on {tensor.device}, expected {reference.device} like {first};"
                f" move it there with {name}.to({first}.device)"
            )


def beside_weights(name: str, value: Tensor, owner: str, weight: Tensor) -> None:
    """`value` lies where the weights of the module `owner` do."""
    if value.device != weight.device:
        raise ValueError(
            f"{name} is on {value.device}, expected {weight.device} like the weights of {owner};"
            f" move the module there with .to({name}.device)"
        )


def channels(name: str, value: Tensor, expected: int, source: str) -> None:
    """Dimension 1 of `value` is what the module was built for."""
    if value.shape[1] != expected:
        raise ValueError(
            f"{name} has shape {_shape(value)}, expected {expected} channels ({source})"
        )


def word_features(words: Tensor, word_dim: int) -> None:
    """`words` is channel-first."""
    if words.shape[1] == word_dim:
        return
    cure = ""
    if words.shape[2] == word_dim:
        cure = ": these are (B, T, C), hand over words.transpose(1, 2)"
    raise ValueError(
        f"words has shape {_shape(words)}, expected {word_dim} channels (word_dim of ALRModule) in"
        f" dimension 1{cure}"
    )


def caption_lengths(lengths: Tensor, of_name: str, of: Tensor, *, words: int = 2) -> None:
    """`lengths` is (B,), integer, and (where that can be known for free) within 1..T.

    T is the size of dimension `words` of the tensor `of`.
    """
    mask = "for a mask (B, T) lengths_from_mask(mask, padding=...) gives them"
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths is a {type(lengths).__name__}, expected an integer tensor (B,)")
    if lengths.dtype not in INTEGERS:
        raise TypeError(
            f"lengths has dtype {lengths.dtype}, expected an integer dtype, int64 as a rule: the"
            f" number of real words per caption; {mask}"
        )
    batch, limit = of.shape[0], of.shape[words]
    if lengths.shape != (batch,):
        raise ValueError(
            f"lengths has shape {_shape(lengths)}, expected ({batch},): one caption length per"
            f" sample of {of_name} of shape {_shape(of)}; {mask}"
        )
    same_device(**{of_name: of, "lengths": lengths})
    if not readable(lengths) or batch == 0:
        return
    lowest, highest = (int(value) for value in lengths.aminmax())
    if lowest < 1 or highest > limit:
        wrong = lowest if lowest < 1 else highest
        raise ValueError(
            f"lengths holds {wrong}, expected 1..{limit}: the number of real words of a caption,"
            f" of the T = {limit} words of {of_name}"
        )


def nothing_at(name: str, layout: Tensor, padding: Tensor) -> None:
    """No mass at padded words, where that can be known for free."""
    if not readable(layout) or layout.numel() == 0:
        return
    mass = float(layout.detach().masked_fill(~padding, 0).abs().amax())
    if mass > 1e-6:
        raise ValueError(
            f"{name} leaves a mass of {mass:.2g} on padded words, expected 0: mask their scores"
            " with -inf before the softmax, row by row of the batch"
        )


def threshold(gamma: float) -> float:
    """γ within [0, 1], where every residual of two layouts lies."""
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
        raise TypeError(f"gamma is a {type(gamma).__name__}, expected a number in [0, 1]")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}, expected a number in [0, 1]")
    return float(gamma)


def choice(name: str, value: str, options: tuple[str, ...]) -> str:
    """`value` is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(map(repr, options))}")
    return value


def flag(name: str, value: bool) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is a {type(value).__name__}, expected True or False")
    return value


def count(name: str, value: int) -> int:
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a positive integer")
    if value < 1:
        raise ValueError(f"{name} is {value}, expected a positive integer")
    return value
