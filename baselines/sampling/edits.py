"""Captions with one word exchanged for its opposite: what should change, and what should not."""

from __future__ import annotations

import re

from baselines.data.vocabulary import Vocabulary

# Places before colours before sizes and shapes, since where things are is what a layout decides.
OPPOSITES = (
    ("left", "right"), ("upper", "lower"), ("top", "bottom"), ("above", "below"), ("over", "under"),
    ("red", "blue"), ("yellow", "purple"), ("green", "orange"), ("cyan", "pink"),
    ("white", "black"), ("brown", "grey"), ("gray", "brown"),
    ("large", "small"), ("big", "small"), ("long", "short"),
    ("circle", "star"), ("triangle", "ring"), ("heart", "square"), ("cross", "diamond"),
)  # fmt: skip


def suggested_edits(text: str, vocabulary: Vocabulary, count: int) -> list[str]:
    """Up to `count` versions of a caption, each with one word exchanged.

    Only for words of `OPPOSITES` that stand in the caption once and are known to `vocabulary`, as
    is what takes their place.

    >>> words = Vocabulary.build(["a red star on the left", "blue right"])
    >>> suggested_edits("a red star on the left", words, 2)
    ['a red star on the right', 'a blue star on the left']
    """
    edits = []
    for one, other in OPPOSITES:
        for old, new in ((one, other), (other, one)):
            found = re.findall(rf"\b{old}\b", text)
            known = old in vocabulary and new in vocabulary
            if len(found) == 1 and known and not re.search(rf"\b{new}\b", text):
                edits.append(re.sub(rf"\b{old}\b", new, text))
    return edits[:count]
