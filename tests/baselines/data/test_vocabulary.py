"""The tokeniser, the numbering of words, and what happens when two numberings meet."""

import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.data.vocabulary import Vocabulary, VocabularyMismatchError, lost_letters, tokenize
from baselines.errors import UserError
from tests.support.paths import require, shared

CAPTIONS = ["a red bird, red!", "the red bird's wing", "a blue wing"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("This Bird's wing; it_is 2-toned.", ["this", "bird", "s", "wing", "it_is", "2", "toned"]),
        ("gr\ufffd\ufffdeen", ["gr", "een"]),
        ("gr\ufffdeen", ["gr", "een"]),
        ("caf\u00e9 na\u00efve", ["caf", "nave"]),
        ("\u65e5\u672c \u00e9 ok", ["ok"]),
        ("this\ufffd\ufffdbird\ufffd\ufffdhas", ["this", "bird", "has"]),
        ("", []),
        ("?! \n .", []),
    ],
)
def test_tokenize_cleans_up_like_the_originals(text, tokens):
    assert tokenize(text) == tokens


@given(st.text())
def test_tokens_are_ascii_words_and_stable(text):
    tokens = tokenize(text)
    assert all(re.fullmatch(r"[a-z0-9_]+", token) for token in tokens)
    assert tokenize(" ".join(tokens)) == tokens


def test_order_is_count_then_alphabet():
    vocabulary = Vocabulary.build(CAPTIONS)
    assert vocabulary.words == ("<pad>", "<unk>", "red", "a", "bird", "wing", "blue", "s", "the")
    assert Vocabulary.build(reversed(CAPTIONS)) == vocabulary


def test_rare_words_become_unknown():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.words[2:] == ("red", "a", "bird", "wing")
    assert vocabulary.encode("The RED bird") == [1, 2, 4]
    assert vocabulary.unknown_words("the blue bird the") == ["the", "blue"]


def test_originals_drop_unknown_words_and_share_0_with_padding():
    vocabulary = Vocabulary(["red", "bird"], unknown=False)
    assert vocabulary.words == ("<end>", "red", "bird")
    assert vocabulary.encode("the red, red bird") == [1, 1, 2]
    assert vocabulary.encode("nothing known") == []
    assert vocabulary.unknown_words("a red hat") == ["a", "hat"]


@given(st.lists(st.text(min_size=1), min_size=1), st.booleans())
def test_encoding_round_trip(captions, unknown):
    known = {token for caption in captions for token in tokenize(caption)}
    vocabulary = Vocabulary(sorted(known), unknown=unknown)
    for caption in captions:
        ids = vocabulary.encode(caption)
        assert 0 not in ids
        assert vocabulary.decode([*ids, 0, 0]) == tokenize(caption)
        assert vocabulary.unknown_words(caption) == []


@given(st.lists(st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True), unique=True), st.booleans())
def test_saving_round_trip(words, unknown):
    vocabulary = Vocabulary(words, unknown=unknown)
    again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert again == vocabulary
    assert again.fingerprint == vocabulary.fingerprint
    assert again.unknown is unknown


def test_file_round_trip_leaves_nothing_else(tmp_path):
    vocabulary = Vocabulary.build(CAPTIONS)
    vocabulary.save(tmp_path / "v.json")
    Vocabulary.build(CAPTIONS[:1]).save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == Vocabulary.build(CAPTIONS[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["v.json"]


def test_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "v.json"
    Vocabulary(["old"]).save(path)

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        Vocabulary(["new"]).save(path)
    assert Vocabulary.load(path) == Vocabulary(["old"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["v.json"]


def test_fingerprint_sees_words_order_and_specials():
    prints = [
        Vocabulary(["a", "b"]).fingerprint,
        Vocabulary(["b", "a"]).fingerprint,
        Vocabulary(["a", "c"]).fingerprint,
        Vocabulary(["a", "b"], unknown=False).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert all(re.fullmatch(r"[0-9a-f]{16}", entry) for entry in prints)


def test_mismatch_says_what_differs():
    mine, theirs = Vocabulary(["red", "bird"]), Vocabulary(["bird", "red", "wing"])
    with pytest.raises(VocabularyMismatchError) as caught:
        mine.require_same(theirs, "encoders.pt")
    message = str(caught.value)
    assert "encoders.pt" in message
    assert "4 ids" in message and "5 ids" in message
    assert "1 words only in encoders.pt: wing" in message
    assert "id 2 is 'red' here, 'bird' there" in message
    mine.require_same(Vocabulary(["red", "bird"]), "encoders.pt")


def test_a_longer_vocabulary_with_equal_start_is_another():
    with pytest.raises(VocabularyMismatchError, match="only in use: wing"):
        Vocabulary(["red", "wing"]).require_same(Vocabulary(["red"]), "x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b", "a"], "'a' has the ids 2 and 4"),
        (["<unk>"], "'<unk>' has the ids 1 and 2"),
        (["a", ""], "word 3 .* is ''"),
        (["a", 3], "word 3 .* is 3"),
    ],
)
def test_bad_word_lists(words, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)


@pytest.mark.parametrize(("captions", "count"), [([], 1), (["!", ""], 1), (["a b"], 2)])
def test_no_words_is_an_error(captions, count):
    with pytest.raises(ValueError, match=f"no word occurs {count} times"):
        Vocabulary.build(captions, count)


def test_min_count_0_is_an_error():
    with pytest.raises(ValueError, match="min_count is 0"):
        Vocabulary.build(["a"], 0)


@pytest.mark.parametrize("number", [-1, 3])
def test_decode_refuses_foreign_ids(number):
    with pytest.raises(ValueError, match=f"id {number} is outside"):
        Vocabulary(["a"]).decode([2, number])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "alr-layers vocabulary 1"}'])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"v\.json is not a readable vocabulary"):
        Vocabulary.load(path)


def test_edited_file_is_refused(tmp_path):
    content = Vocabulary(["red", "bird"]).to_dict()
    content["words"].reverse()
    with pytest.raises(ValueError, match="changed after it was saved"):
        Vocabulary.from_dict(content)


def test_clean_up_of_real_captions():
    text = require(shared("data", "cub", "text"))
    path = text / "153.Philadelphia_Vireo" / "Philadelphia_Vireo_0043_794792.txt"
    caption = path.read_text(encoding="utf-8").splitlines()[3]
    assert "\ufffd\ufffd" in caption
    assert tokenize(caption)[:6] == ["this", "small", "bird", "has", "a", "white"]


@pytest.mark.parametrize(
    ("text", "ascii_words", "unicode_words"),
    [
        ("ein SCHÖNER Vogel", ["ein", "schner", "vogel"], ["ein", "schöner", "vogel"]),
        ("çédille naïve", ["dille", "nave"], ["çédille", "naïve"]),
        ("赤い鳥", [], ["赤い鳥"]),
        ("красная птица!", [], ["красная", "птица"]),
        ("लाल चिड़िया", [], ["लाल", "चिड़िया"]),
        ("snow_man 3½", ["snow_man", "3"], ["snow_man", "3½"]),
        ("a\ufffd\ufffdb €5 🐦 x", ["a", "b", "5", "x"], ["a", "b", "5", "x"]),
    ],
)
def test_letters_outside_ascii(text, ascii_words, unicode_words):
    assert tokenize(text) == ascii_words
    assert tokenize(text, "unicode") == [unicodedata.normalize("NFC", w) for w in unicode_words]


def test_marks_belong_to_their_letter():
    assert tokenize("scho\u0308ner", "unicode") == ["schöner"]
    assert lost_letters("scho\u0308ner", "ascii") == [("schöner", "schoner")]


@given(st.text(st.characters(max_codepoint=127)))
def test_the_rules_agree_on_ascii(text):
    assert tokenize(text, "unicode") == tokenize(text)
    assert lost_letters(text, "ascii") == []


@given(st.text())
def test_unicode_keeps_every_letter_and_number(text):
    normal = unicodedata.normalize("NFC", text.replace("\ufffd\ufffd", " ").lower())
    kept = "".join(tokenize(text, "unicode"))
    assert [c for c in kept if c.isalnum()] == [c for c in normal if c.isalnum()]
    assert lost_letters(text, "unicode") == []


def test_lost_letters_are_told():
    assert lost_letters("ein schöner roter Vogel, 赤い", "ascii") == [
        ("schöner", "schner"), ("赤い", ""),
    ]  # fmt: skip


def test_a_vocabulary_remembers_how_its_words_were_split(tmp_path):
    words = Vocabulary.build(["ein schöner Vogel"], tokens="unicode")
    words.save(tmp_path / "v.json")
    again = Vocabulary.load(tmp_path / "v.json")
    assert again == words and again.tokens == "unicode"
    assert again.decode(again.encode("SCHÖNER vogel")) == ["schöner", "vogel"]
    assert again.unknown_words("schöner grün") == ["grün"]
    old = words.to_dict()
    del old["tokens"]
    assert Vocabulary.from_dict(old).tokens == "ascii"
    with pytest.raises(UserError, match="tokens is 'latin1': expected one of ascii, unicode"):
        Vocabulary(["a"], tokens="latin1")


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '"x"', "[" * 100_000, "{", '{"format": ' + "9" * 5000 + "}",
     '{"format": "alr-layers vocabulary 1", "unknown": true, "fingerprint": "", "words": 3}',
     '{"format": "alr-layers vocabulary 1", "unknown": true, "fingerprint": "", "words": [[1]]}'],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_vocabulary_is_one_line(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"vocabulary\.json is not a readable vocabulary") as caught:
        Vocabulary.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
