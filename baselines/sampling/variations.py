"""Small changes of a caption or of the noise: marked words, paths between two drawings."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from baselines.data.vocabulary import tokenize
from baselines.errors import UserError
from baselines.pictures.sheet import Word
from baselines.sampling.drawing import Inputs
from baselines.sampling.pipeline import EncodedCaption


def mark_changes(base: str, changed: str) -> list[Word]:
    """The words of `changed`: "new" where `base` has others, "gone" those of `base` left out.

    Case and punctuation make no difference, as they make none to the model.
    """
    before, after = base.split(), changed.split()
    matcher = difflib.SequenceMatcher(a=_keys(before), b=_keys(after), autojunk=False)
    marked: list[Word] = []
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        if kind == "equal":
            marked += [Word(word) for word in after[j:j_end]]
        else:
            marked += [Word(word, "gone") for word in before[i:i_end]]
            marked += [Word(word, "new") for word in after[j:j_end]]
    return marked


def mark_unknown(caption: EncodedCaption) -> list[Word]:
    """The words of a caption, struck out where the run does not know them."""
    unknown = set(caption.unknown)
    return [
        Word(word, "gone" if unknown.intersection(_readings(word)) else "plain")
        for word in caption.text.split()
    ]


def noise_path(first: Inputs, second: Inputs, steps: int) -> Inputs:
    """From the noise of `first` to that of `second` under the caption of `first`; one row each.

    Spherical, because on a straight line the noise would shrink half-way, which the generator
    has never seen. The ends are exact.
    """
    places = _places(steps)
    return Inputs(
        noise=torch.cat([_spherical(first.noise, second.noise, t) for t in places]),
        eps=torch.cat([_spherical(first.eps, second.eps, t) for t in places]),
        sentence=first.sentence.expand(steps, -1),
        words=first.words.expand(steps, -1, -1),
        lengths=first.lengths.expand(steps),
    )


def caption_path(first: Inputs, second: Inputs, steps: int) -> Inputs:
    """From the caption of `first` to that of `second` under the noise of `first`; one row each.

    Sentence and words move on straight lines. Captions of different length are matched word by
    word after stretching the shorter one evenly; the ends are the captions themselves.
    """
    places = _places(steps)
    length = int(max(first.lengths[0], second.lengths[0]))
    near, far = _stretched(first, length), _stretched(second, length)
    words = [near + t * (far - near) for t in places]
    words[0], words[-1] = first.words, second.words
    lengths = torch.full((steps,), length)
    lengths[0], lengths[-1] = first.lengths[0], second.lengths[0]
    return Inputs(
        noise=first.noise.expand(steps, -1),
        eps=first.eps.expand(steps, -1),
        sentence=torch.cat([(1 - t) * first.sentence + t * second.sentence for t in places]),
        words=torch.cat(words),
        lengths=lengths,
    )


def _readings(word: str) -> list[str]:
    """What a vocabulary may have made of a word, by either rule of `tokenize`."""
    return [*tokenize(word), *tokenize(word, "unicode")]


def _keys(words: list[str]) -> list[str]:
    return [" ".join(tokenize(word, "unicode")) for word in words]


def _places(steps: int) -> list[float]:
    if steps < 2:
        raise UserError(f"{steps} steps: an interpolation needs 2 or more, its two ends")
    return [step / (steps - 1) for step in range(steps)]


def _spherical(first: Tensor, second: Tensor, t: float) -> Tensor:
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=1)
    angle = torch.acos(cosine.clamp(-1, 1))[:, None]
    if not torch.sin(angle).abs().min() > 1e-4:
        return (1 - t) * first + t * second
    near, far = torch.sin((1 - t) * angle), torch.sin(t * angle)
    return (near * first + far * second) / torch.sin(angle)


def _stretched(inputs: Inputs, length: int) -> Tensor:
    """Words (1, E, T) of which the first `length` are the real ones, each repeated as needed."""
    real = int(inputs.lengths[0])
    words = inputs.words.clone()
    words[..., :length] = inputs.words[..., torch.arange(length) * real // length]
    return words
