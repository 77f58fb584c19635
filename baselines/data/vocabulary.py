"""Words and their numbers: how captions are split, and a vocabulary that can be compared."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nltk.tokenize import RegexpTokenizer

from baselines import files
from baselines.data.reading import quoted
from baselines.errors import UserError

PAD = "<pad>"
UNKNOWN = "<unk>"
END = "<end>"
_FORMAT = "alr-layers vocabulary 1"
TOKENS = ("ascii", "unicode")
_WORDS = RegexpTokenizer(r"\w+")


class VocabularyMismatchError(UserError):
    """Two parts of a run number their words differently."""


def tokenize(text: str, tokens: str = "ascii") -> list[str]:
    r"""Split a caption into words.

    A pair of U+FFFD (what is left of a mangled space) becomes a space; lower case; maximal runs
    of `\w`. What happens to letters outside ASCII is the choice of `tokens`:

    - "ascii", the rule of AttnGAN: they are dropped inside each run, and runs left empty are
      dropped;
    - "unicode": they stay. The text is composed first (NFC), and combining marks belong to their
      word. Scripts that put no spaces between words give a run as one word.

    >>> tokenize("A small, grey-winged bird.")
    ['a', 'small', 'grey', 'winged', 'bird']
    >>> tokenize("ein schöner Vogel"), tokenize("ein schöner Vogel", "unicode")
    (['ein', 'schner', 'vogel'], ['ein', 'schöner', 'vogel'])
    """
    text = text.replace("\ufffd\ufffd", " ").lower()
    if tokens == "unicode" and not text.isascii():
        return _runs(unicodedata.normalize("NFC", text))
    ascii_runs = (run.encode("ascii", "ignore").decode("ascii") for run in _WORDS.tokenize(text))
    return [run for run in ascii_runs if run]


def _runs(text: str) -> list[str]:
    groups = itertools.groupby(text, key=_belongs_to_word)
    return ["".join(group) for inside, group in groups if inside]


def _belongs_to_word(character: str) -> bool:
    word = character.isalnum() or character == "_"
    return word or unicodedata.category(character).startswith("M")


def lost_letters(text: str, tokens: str) -> list[tuple[str, str]]:
    """Pairs (as written, as read) of the words that lose letters under `tokens`.

    >>> lost_letters("ein schöner Vogel", "ascii")
    [('schöner', 'schner')]
    """
    if tokens == "unicode" or text.isascii():
        return []
    pairs = ((run, "".join(tokenize(run, tokens))) for run in _runs(text.lower()))
    return [(unicodedata.normalize("NFC", run), read) for run, read in pairs if run != read]


class Vocabulary:
    """An ordered list of words; id 0 is padding.

    Args:
        words: distinct, not empty, without the special words.
        unknown: with True, id 0 is `<pad>`, id 1 `<unk>`, and `words` follow from 2; a word
            outside the vocabulary becomes `<unk>`. With False (converted from an original
            `captions.pickle`), id 0 is `<end>` and pads as well, `words` follow from 1, and a
            word outside the vocabulary is dropped, as the originals do.
        tokens: how captions are split into words, see `tokenize`.

    >>> vocabulary = Vocabulary.build(["a red bird", "a bird"])
    >>> vocabulary.words
    ('<pad>', '<unk>', 'a', 'bird', 'red')
    >>> vocabulary.encode("A red fox!")
    [2, 4, 1]

    Raises:
        UserError: a word occurs twice, is empty or is one of the special words.
    """

    def __init__(
        self, words: Sequence[str], *, unknown: bool = True, tokens: str = "ascii"
    ) -> None:
        if tokens not in TOKENS:
            raise UserError(f"tokens is {tokens!r}: expected one of {', '.join(TOKENS)}")
        self.unknown, self.tokens = unknown, tokens
        specials = (PAD, UNKNOWN) if unknown else (END,)
        self.words = specials + tuple(words)
        self._ids: dict[str, int] = {}
        for number, word in enumerate(self.words):
            if not isinstance(word, str) or not word:
                raise UserError(
                    f"word {number} of the vocabulary is {quoted(word)}: expected a non-empty word"
                )
            if word in self._ids:
                raise UserError(
                    f"the word {quoted(word)} has the ids {self._ids[word]} and {number}: "
                    "list every word once and leave out the special words " + ", ".join(specials)
                )
            self._ids[word] = number
        self._specials = frozenset(specials)

    @classmethod
    def build(
        cls, captions: Iterable[str], min_count: int = 1, tokens: str = "ascii"
    ) -> Vocabulary:
        """The words that occur at least `min_count` times, most frequent first, then a to z.

        Raises:
            UserError: `min_count` < 1, or no word is left.
        """
        if min_count < 1:
            raise UserError(f"min_count is {min_count}: expected 1 or more")
        counts: Counter[str] = Counter()
        for caption in captions:
            counts.update(tokenize(caption, tokens))
        kept = [word for word, count in counts.items() if count >= min_count]
        if not kept:
            raise UserError(
                f"no word occurs {min_count} times or more among {len(counts)} different words: "
                "check that the training split has captions, or lower data.min_count"
            )
        return cls(sorted(kept, key=lambda word: (-counts[word], word)), tokens=tokens)

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids and word not in self._specials

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} ids, unknown={self.unknown}, {self.fingerprint})"

    def split(self, text: str) -> list[str]:
        """The words of `text`, known or not."""
        return tokenize(text, self.tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of the words of `text`, in order; empty if nothing of it is a word."""
        words = self.split(text)
        if self.unknown:
            return [self._ids.get(word, 1) for word in words]
        return [self._ids[word] for word in words if word in self]

    def unknown_words(self, text: str) -> list[str]:
        """The words of `text` outside the vocabulary, each once, in order."""
        return list(dict.fromkeys(word for word in self.split(text) if word not in self))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words behind `ids`; padding (0) is left out.

        Raises:
            UserError: an id is negative or not below `len(self)`.
        """
        numbers = [int(number) for number in ids]
        for number in numbers:
            if not 0 <= number < len(self):
                raise UserError(f"id {number} is outside this vocabulary of {len(self)} ids")
        return [self.words[number] for number in numbers if number]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any word, its place, or `unknown`."""
        return hashlib.sha256(json.dumps(self.words).encode()).hexdigest()[:16]

    def require_same(self, other: Vocabulary, where: str) -> None:
        """Refuse to go on with another numbering of the words.

        Raises:
            VocabularyMismatchError: saying what differs; `where` names the owner of `other`.
        """
        if self == other:
            return
        lines = [
            f"the vocabulary of {where} ({len(other)} ids, {other.fingerprint}) is not the one "
            f"in use ({len(self)} ids, {self.fingerprint}), so word ids would mean other words:"
        ]
        mine, theirs = set(self.words), set(other.words)
        for title, only in (("only in use", mine - theirs), (f"only in {where}", theirs - mine)):
            if only:
                shown = ", ".join(sorted(only)[:8])
                lines.append(f"  {len(only)} words {title}: {shown}{', …' * (len(only) > 8)}")
        pairs = enumerate(zip(self.words, other.words, strict=False))
        first = next(((n, a, b) for n, (a, b) in pairs if a != b), None)
        if first is not None:
            lines.append(
                f"  first difference: id {first[0]} is {first[1]!r} here, {first[2]!r} there"
            )
        lines.append(
            "use the vocabulary saved with the run, or train the encoders anew with this one"
        )
        raise VocabularyMismatchError("\n".join(lines))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for JSON and for checkpoints."""
        return {
            "format": _FORMAT,
            "unknown": self.unknown,
            "tokens": self.tokens,
            "fingerprint": self.fingerprint,
            "words": list(self.words[len(self._specials) :]),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Vocabulary:
        """The inverse of `to_dict`.

        Raises:
            UserError: not written by `to_dict`, or changed since.
        """
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise UserError(f'not a vocabulary: expected an object with "format": "{_FORMAT}"')
        missing = {"unknown", "fingerprint", "words"} - set(content)
        if missing:
            raise UserError(f"not a complete vocabulary: {sorted(missing)} missing")
        words = content["words"]
        if not isinstance(words, (list, tuple)):
            raise UserError(f"its words are no list but a {type(words).__name__}")
        # Files written before there was a choice were read by the rule of AttnGAN.
        tokens = content.get("tokens", "ascii")
        vocabulary = cls(words, unknown=content["unknown"] is True, tokens=tokens)
        if vocabulary.fingerprint != content["fingerprint"]:
            raise UserError(
                f"the vocabulary was changed after it was saved: its fingerprint is "
                f"{vocabulary.fingerprint}, recorded is {content['fingerprint']}"
            )
        return vocabulary

    def save(self, path: str | Path) -> None:
        """Write JSON with a checksum."""
        files.write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            UserError: naming the file and what is wrong with it.
        """
        try:
            return cls.from_dict(files.read_json(Path(path)))
        except (UserError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a readable vocabulary: {error}") from error
