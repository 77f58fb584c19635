import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

import baselines
from baselines.data import Vocabulary
from baselines.errors import UserError
from baselines.pages import serve_html as html
from baselines.sampling.studio import Prompt, Studio
from tests.support.tiny_run import make_tiny_run

TEXT = "a red star on the left"


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Studio:
    """A run that knows all words, one that knows three, and one without layouts."""
    folder = tmp_path_factory.mktemp("runs")
    full, narrow = (baselines.load(make_tiny_run(folder / n), device="cpu") for n in "ab")
    narrow.run.encoders.vocabulary = Vocabulary(["a", "red", "star"], unknown=False)
    flat = baselines.load(make_tiny_run(folder / "c", stages=1), device="cpu")
    return Studio({"full <1>": full, "narrow": narrow, "flat": flat})


def pictures_in(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(found) == page.count("<img")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_every_sample_of_every_run_is_on_the_page(studio):
    prompt = Prompt(TEXT, 1, 2)
    shown = pictures_in(html.drawings(studio, prompt))
    drawn = [np.asarray(p) for name in studio.pipelines for p in studio.pictures(name, prompt)]
    assert len(shown) == 6 and all(map(np.array_equal, shown, drawn))


def test_a_run_that_cannot_draw_says_so_in_its_place(studio):
    page = html.drawings(studio, Prompt("green ring"))
    cards = page.split("<section>")[1:]
    assert [len(pictures_in(card)) for card in cards] == [1, 0, 1]
    assert "no word of 'green ring' is in the vocabulary" in cards[1].replace("&#x27;", "'")
    with pytest.raises(UserError, match="no word of 'zorgle'"):
        html.drawings(studio, Prompt("zorgle"))


def test_unknown_words_and_cut_ones_are_named(studio):
    page = html.drawings(studio, Prompt("a red zorgle ring"))
    assert "a red <del>zorgle</del> ring" in page
    said = text_of(html.notes(studio, "a red zorgle ring"))
    assert said == "unknown: zorgle unknown to narrow: ring"
    long = text_of(html.notes(studio, " ".join(["red star"] * 9 + ["at left"])))
    assert "cut by full &lt;1&gt;, which reads no more words: at left" in long


def test_places_are_the_picture_and_an_overlay_for_every_stage(studio):
    prompt = Prompt(TEXT, 1, 2)
    page = html.places(studio, prompt, 1, 2)
    cards = page.split("<section>")[1:]
    assert "Where <em>star</em> goes" in page
    for card, name in zip(cards[:2], studio.pipelines, strict=False):
        picture, overlay = pictures_in(card)
        assert np.array_equal(picture, np.asarray(studio.pictures(name, prompt)[1]))
        (expected,) = studio.overlays(name, prompt, 1, 2)
        assert np.array_equal(overlay, np.asarray(expected.picture))
    assert not pictures_in(cards[2]) and "no stage that reads words" in cards[2]
    left_out = html.places(studio, prompt, 0, 5).split("<section>")[2]
    assert "left out by this run" in left_out


def test_an_edit_is_before_after_difference_and_both_places(studio):
    page = html.edits(studio, Prompt(TEXT, 1, 2), 1, 1, "green")
    assert "<h2>a <del>red</del> <ins>green</ins> star on the left</h2>" in page
    cards = page.split("<section>")[1:]
    counts = [len(pictures_in(card)) for card in cards]
    assert counts == [5, 4, 3], "the narrow run leaves green out, the flat one has no layout"
    before, after, change, *_ = pictures_in(cards[0])
    moved = (before != after).any(axis=2)
    assert moved.any() and not change[~moved].any() and change[moved].any(axis=1).mean() > 0.9
    assert "unknown to narrow: green" in text_of(page)
    same = html.edits(studio, Prompt(TEXT, 1, 2), 1, 1, "red")
    assert "Nothing changes." in same


def test_what_is_typed_is_never_markup(studio):
    evil = "<script>alert(1)</script> red \"star\" onload='x'"
    prompt = Prompt(evil)
    pages = [html.drawings(studio, prompt), html.heading(studio), html.problem(UserError(evil))]
    pages += [html.edits(studio, prompt, 0, 1, "<img src=x>"), html.places(studio, prompt, 0, 3)]
    for page in pages:
        assert "<script" not in page and "<img src=x" not in page and "<1>" not in page
    assert html.problem("two\nlines") == '<p class="problem" role="alert">two lines</p>'


def test_the_heading_says_what_each_run_is(studio):
    said = text_of(html.heading(studio))
    assert html.TITLE in said and "flat attngan · 16 px · scenes" in said
    assert "noise of different widths" not in said
