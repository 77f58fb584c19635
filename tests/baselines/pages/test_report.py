import base64
import io
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import baselines
from baselines import evaluate, report
from baselines.config import load_config, save_config
from baselines.data import open_source
from baselines.data.vocabulary import Vocabulary
from baselines.errors import UserError
from baselines.metrics.images import ImageBatch
from baselines.metrics.pairs import read_pairs
from baselines.metrics.record import RESULT, load_entries
from baselines.pages.charts import chart, thinned
from baselines.pages.embedded import embedded
from baselines.pages.report_ranked import _by_overlap, _by_statements, best_and_worst
from baselines.pages.subjects import Subject
from baselines.pictures.grids import change_heat, layout_heat, layout_overlay
from baselines.runs import CONFIG, load_run
from baselines.sampling.edits import suggested_edits
from tests.support.browser import browse, needs_browser
from tests.support.tiny_run import make_rival_run, make_tiny_run

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The elements of a page in order, and whether every one of them is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    def pictures(self):
        return [attrs["src"] for tag, attrs in self.elements if tag == "img"]


def decoded(address):
    kind, _, content = address.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two evaluated runs that differ in their generators and one setting."""
    folder = tmp_path_factory.mktemp("runs")
    first = make_tiny_run(folder / "host")
    second = make_rival_run(first, folder / "<b>refined")
    lines = [f'{{"step": {n}, "images": {4 * n}, "G/total": {1 / n}}}\n' for n in range(1, 5)]
    (first / "stats.jsonl").write_text("".join(lines))
    for run in (first, second):
        options = ["--images", "20", "--metrics", "r_precision,graded", "--device", "cpu"]
        evaluate.main(["--run", str(run), *options])
    return first, second


SMALL = ("--captions", "3", "--samples", "2", "--drawn", "10", "--device", "cpu")


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    report.main([*map(str, runs), "--out", str(out), *SMALL])
    return out


def test_the_page_needs_nothing_beside_it(page):
    text = page.read_text()
    parsed = Page(text)
    for tag, attrs in parsed.elements:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href"):
            value = attrs.get(name) or ""
            assert value.startswith(("data:image/", "#")) or not value
    assert not re.search(r"url\((?!#|'data:image/)|@import", text)
    assert all(decoded(address).size for address in parsed.pictures())


def test_what_lies_under_all_words_of_a_line_is_in_the_page_once(page):
    """At 256 px, a picture for every word of every layout would make pages of many megabytes."""
    parsed = Page(page.read_text())
    rows = [attrs["style"] for tag, attrs in parsed.elements if tag == "tr" and "style" in attrs]
    unders = [re.fullmatch(r"--under: url\('(.+)'\)", style).group(1) for style in rows]
    assert unders and all(decoded(address).shape == (96, 96, 3) for address in unders)
    assert not set(unders) & set(parsed.pictures())


def test_it_shows_what_the_runs_draw(runs, page):
    """Every sample is the pipeline's own image of that caption, seed and number."""
    shown = [decoded(address) for address in Page(page.read_text()).pictures()]
    for run in runs:
        pipeline = baselines.load(run, device="cpu")
        source = open_source(pipeline.run.config.data, "test")
        for place in range(3):
            text = source.captions(place * len(source) // 3)[0]
            for image in pipeline(text, seed=place, samples=2):
                assert any(np.array_equal(np.asarray(image), one) for one in shown), (run, place)


def test_numbers_and_settings_stand_beside_one_another(page):
    texts = Page(page.read_text()).texts
    assert "loss.damsm" in texts
    assert {"5.0", "2.0"} <= set(texts)
    assert any(text.startswith("R-precision") for text in texts)
    assert any(re.fullmatch(r"\d+\.\d ± \d+\.\d", text) for text in texts)
    assert "G/total" in texts and "real images" in texts


def test_names_are_text(page):
    """A folder may be called anything."""
    assert "<b>refined" in Page(page.read_text()).texts
    assert "<b>refined</" not in page.read_text()


def test_a_run_alone_and_not_evaluated_says_what_to_do(tmp_path, capsys):
    run = make_tiny_run(tmp_path / "run")
    report.main([str(run), *SMALL])
    text = (run / "report.html").read_text()
    assert "not evaluated; run python -m baselines.evaluate" in text
    assert "not evaluated" in capsys.readouterr().err


def test_runs_of_other_data_are_refused(runs, tmp_path):
    other = shutil.copytree(runs[0], tmp_path / "other")
    config = load_config(other / CONFIG)
    save_config(replace(config, data=replace(config.data, max_objects=3)), other / CONFIG)
    with pytest.raises(UserError, match="other test data"):
        report.main([str(runs[0]), str(other), *SMALL])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--captions", "0"], "--captions 0"),
        (["--edit", "a red star"], "a changed version"),
        (["--edit", "a red star", "qqq zzz"], "no word of 'qqq zzz'"),
    ],
)
def test_what_cannot_be_shown_is_one_line(runs, options, message, tmp_path):
    out = tmp_path / "page.html"
    with pytest.raises(UserError, match=re.escape(message)):
        report.main([str(runs[0]), *SMALL, *options, "--out", str(out)])
    assert not out.exists()
    with pytest.raises(UserError, match="named twice"):
        report.main([str(runs[0]), str(runs[0])])


def test_dots_have_the_colours_of_their_runs(runs, page):
    """Also where two runs have the same score: at most one of them is found by its value."""
    elements = Page(page.read_text()).elements
    styles = [attrs["style"] for _, attrs in elements if attrs.get("class") == "dot"]
    counts = Counter(style.rpartition("--run: ")[2] for style in styles)
    for run, colour in zip(runs, ("#0072b2", "#d55e00"), strict=True):
        entry = load_entries(run / RESULT)[-1]
        scores = [row.get("trained", {}) for row in entry["metrics"].values()]
        assert counts[colour] == sum(score.get("value") is not None for score in scores) > 0


@needs_browser
def test_a_browser_shows_it(page, tmp_path):
    dom = browse(page.as_uri(), tmp_path / "profile", "--dump-dom")
    assert "Where every word is" in dom
    picture = tmp_path / "page.png"
    browse(page.as_uri(), tmp_path / "again", f"--screenshot={picture}", "--window-size=1200,2400")
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (2400, 1200, 3)
    # Photographs, text and ground: a page without its style or its pictures has fewer colours.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def test_true_pictures_are_best_by_their_statements(runs):
    run = load_run(runs[0])
    source = open_source(run.config.data, "test")
    pairs = read_pairs(source, run.encoders.vocabulary, run.config.data.max_words)
    rows = torch.arange(8)
    images = torch.stack([source.image(int(pairs.images[row]), 64) for row in rows])
    right = _by_statements(source, pairs, ImageBatch(rows, images))
    wrong = _by_statements(source, pairs, ImageBatch(rows, torch.zeros_like(images)))
    assert right is not None and wrong is not None
    assert sum(note == "all true" for _, note in right) >= 7
    for (worth, _), (none, note) in zip(right, wrong, strict=True):
        assert worth > none and note.startswith("wrong: colour")


def test_real_images_overlap_wholly(runs):
    run = load_run(runs[0])
    source = open_source(run.config.data, "test")
    pairs = read_pairs(source, run.encoders.vocabulary, run.config.data.max_words)
    size, rows = run.config.model.image_sizes[-1], torch.arange(4)
    images = torch.stack([source.image(int(pairs.images[row]), size) for row in rows])

    def layouts(images, words, lengths):
        return {"damsm": images[:, :1].expand(-1, words.shape[2], -1, -1) + 1}

    words = run.encoders.text(pairs.ids[rows], pairs.lengths[rows]).words
    same = layouts(images, words, pairs.lengths[rows])
    found = _by_overlap(run, source, pairs, ImageBatch(rows, images, 0, same), layouts)
    assert found == [(1.0, "words overlap 100 %")] * 4


def test_best_are_no_worse_than_worst(runs):
    pipeline = baselines.load(runs[0], device="cpu")
    source = open_source(pipeline.run.config.data, "test")
    subject = Subject("run", pipeline, "#000000")
    sides = dict(best_and_worst(subject, source, seed=0, drawn=12, count=3))
    wrong = {
        side: [block.lines[0].pictures[0].note.count(",") for block in blocks]
        for side, blocks in sides.items()
    }
    assert len(sides["best"]) == len(sides["worst"]) == 3
    captions = [[word.text for word in b.caption] for blocks in sides.values() for b in blocks]
    assert len({tuple(caption) for caption in captions}) == 6
    assert max(wrong["best"]) <= max(wrong["worst"])


def test_edits_exchange_one_known_word_each():
    text = "a large red star in the upper left corner"
    known = Vocabulary.build([text, "right lower blue small"])
    edits = suggested_edits(text, known, 9)
    assert edits == [
        "a large red star in the upper right corner",
        "a large red star in the lower left corner",
        "a large blue star in the upper left corner",
        "a small red star in the upper left corner",
    ]  # nothing for the star: the vocabulary has no circle
    assert suggested_edits("the red circle left of the blue one", known, 9) == [
        "the red circle right of the blue one"
    ]  # red for blue would say nothing of which is which


def test_heat_of_a_change_is_where_it_changed():
    before = torch.zeros(3, 8, 8)
    after = before.clone()
    after[:, 2:4, 5] = 1.0
    heat = change_heat(before, after)
    assert heat.shape == (8, 8, 4)
    assert np.array_equal(heat[..., 3] > 0, (after[0] != 0).numpy())
    assert heat[..., 3].max() == pytest.approx(0.85)
    assert not change_heat(before, before)[..., 3].any()


def test_heat_over_a_dimmed_picture_is_the_overlay():
    """The page lets the browser lay heat over a picture; files have the same in one."""
    image, layout = torch.rand(3, 16, 16) * 2 - 1, torch.rand(2, 16, 16)
    layout[0, 3, 3] = 0.0
    overlay = layout_overlay(image, layout, 16)
    heat = layout_heat(layout)
    grey = ((image.permute(1, 2, 0).numpy() + 1) * 127.5).round()
    below = 0.35 * grey + 0.2 * grey.mean(axis=2, keepdims=True)
    expected = below * (1 - heat[..., 3:]) + 255 * heat[..., :3] * heat[..., 3:]
    assert np.abs(overlay - expected).max() <= 0.5 + 1e-6
    assert overlay[0, 3, 3] == pytest.approx(np.round(below[3, 3]))


@pytest.mark.parametrize(("side", "exact"), [(32, True), (200, False)])
def test_small_pictures_are_embedded_exactly(side, exact):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert np.array_equal(decoded(embedded(pixels)), pixels) == exact


def test_a_chart_is_the_same_file_again_and_not_longer_than_it_must_be():
    curve = [(float(n), float(n % 7)) for n in range(1000)]
    assert len(thinned(curve)) <= 160
    ys = [y for _, y in thinned(curve)]
    assert np.mean(ys) == pytest.approx(np.mean([y for _, y in curve]), abs=0.05)
    first = chart("G/total", {"#0072b2": curve, "#d55e00": []})
    assert first == chart("G/total", {"#0072b2": curve, "#d55e00": []})
    assert first.startswith("<svg") and "G/total" in first and "#d55e00" not in first
