"""`captions.pickle` of the AttnGAN family, there and back."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.data.originals import save_captions_pickle, vocabulary_from_captions_pickle
from baselines.data.restricted_pickle import UnsafePickleError
from baselines.data.source import DataError
from baselines.data.vocabulary import Vocabulary

WORDS = {0: "<end>", 1: "red", 2: "bird", 3: "a"}
IDS = {word: number for number, word in WORDS.items()}


def dump(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_original_ids_stay(tmp_path):
    path = dump(tmp_path / "captions.pickle", [[[3, 1, 2], [2]], [[1]], WORDS, IDS])
    vocabulary, train, test = vocabulary_from_captions_pickle(path)
    assert vocabulary == Vocabulary(["red", "bird", "a"], unknown=False)
    assert (train, test) == ([[3, 1, 2], [2]], [[1]])
    assert vocabulary.encode("A red, rare bird") == [3, 1, 2]
    assert len(vocabulary) == 4


@given(
    st.lists(st.from_regex(r"[a-z0-9_]{1,6}", fullmatch=True), unique=True, min_size=1),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_round_trip(tmp_path_factory, words, unknown, random):
    vocabulary = Vocabulary(words, unknown=unknown)
    captions = [[random.randrange(1, len(vocabulary)) for _ in range(n)] for n in range(4)]
    path = tmp_path_factory.getbasetemp() / "captions.pickle"
    save_captions_pickle(path, vocabulary, captions, captions[:2])
    assert vocabulary_from_captions_pickle(path) == (vocabulary, captions, captions[:2])
    train, test, by_id, by_word = pickle.loads(path.read_bytes())
    assert by_id[0] == "<end>" and len(by_id) == len(by_word) == len(vocabulary)
    assert (train, test) == (captions, captions[:2])
    assert all(by_id[by_word[word]] == word for word in words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"words": 1}, "expected a list of four"),
        ([[], [], WORDS], "expected a list of four"),
        ([[], [], ["red"], IDS], "not dictionaries"),
        ([[], [], {0: "<end>", 2: "bird"}, {}], "must number the words from 0"),
        ([[], [], {0: "red"}, {"red": 0}], "0 must be '<end>'"),
        ([[], [], WORDS, {**IDS, "red": 2}], "not the inverse"),
        ([[], [[1], [4]], WORDS, IDS], "test caption 1 is no list of ids below 4"),
        ([[[1, "red"]], [], WORDS, IDS], "train caption 0"),
        ([3, [], WORDS, IDS], "train captions are no list but int"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    path = dump(tmp_path / "captions.pickle", content)
    with pytest.raises(DataError, match=rf"captions\.pickle.*{message}"):
        vocabulary_from_captions_pickle(path)


def test_code_is_refused(tmp_path):
    path = dump(tmp_path / "captions.pickle", [[], [], WORDS, print])
    with pytest.raises(UnsafePickleError, match="print: refused"):
        vocabulary_from_captions_pickle(path)
