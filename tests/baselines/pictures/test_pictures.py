import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from baselines.pictures import grids as pictures
from baselines.pictures import sheet
from baselines.pictures.grids import OverlayRow
from baselines.pictures.sheet import LINE, TEXT, Word


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def flat(value, side=160):
    return torch.full((3, side, side), float(value))


def noisy(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) * 2 - 1


def contains(page, part):
    """Whether `part` stands somewhere on `page`, pixel for pixel."""
    height, width = part.shape[:2]
    corners = np.argwhere((page == part[0, 0]).all(-1))
    return any(np.array_equal(page[y : y + height, x : x + width], part) for y, x in corners)


class TestBytes:
    def test_every_level_survives_the_round_trip(self):
        levels = torch.arange(256, dtype=torch.uint8)
        assert torch.equal(pictures.to_bytes(levels.float() / 127.5 - 1), levels)

    def test_rounds_to_the_nearest_level_and_clamps(self):
        values = torch.tensor([-1 + 0.6 / 127.5, -1 + 0.4 / 127.5, 3.0, -3.0, math.nan, math.inf])
        assert pictures.to_bytes(values).tolist() == [1, 0, 255, 0, 0, 255]

    def test_takes_half_precision_and_gradients(self):
        image = torch.zeros(3, 2, 2, dtype=torch.bfloat16, requires_grad=True)
        assert (pictures.to_bytes(image) == 128).all()


def test_image_grid_places_images_row_by_row():
    images = torch.stack([flat(-1, 4), flat(0, 4), flat(1, 4)])
    grid = np.asarray(pictures.image_grid(images, 2, padding=1))
    assert grid.shape == (11, 11, 3)
    assert (grid[1:5, 1:5] == 0).all() and (grid[1:5, 6:10] == 128).all()
    assert (grid[6:10, 1:5] == 255).all()


def test_stages_side_by_side_share_the_largest_height():
    joined = pictures.side_by_side([flat(-1, 16), flat(0, 160)])
    assert joined.shape == (3, 160, 2 * 160 + pictures.GAP)
    assert (joined[..., :160] + 1).abs().max() < 1e-5 and not joined[..., -160:].any()


class TestCaptionedGrid:
    def test_images_are_pasted_pixel_for_pixel_and_captions_are_drawn(self, tmp_path):
        images = noisy(3, 3, 160, 160)
        pictures.captioned_grid(images, ["a red bird"] * 3, tmp_path / "x.png", columns=2)
        page = pixels(tmp_path / "x.png")
        for image in images:
            assert contains(page, np.asarray(pictures.to_picture(image)))
        below = page[pictures.GAP + 160 + 2 :][:LINE]
        assert (below < 128).any()

    def test_small_images_are_enlarged(self, tmp_path):
        pictures.captioned_grid([flat(0, 16)], [""], tmp_path / "x.png")
        page = pixels(tmp_path / "x.png")
        assert (page == 128).all(-1).sum() == pictures.MIN_SIDE**2

    def test_any_caption_can_be_set_without_a_warning(self, tmp_path):
        captions = ["$x^2 costs $5", "漢字 ö Θ*", "x" * 300, "", [Word("new", "new")]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pictures.captioned_grid([flat(0, 32)] * 5, captions, tmp_path / "x.png")
        assert pixels(tmp_path / "x.png").size

    @pytest.mark.parametrize(("images", "captions"), [(0, 0), (2, 1)])
    def test_one_caption_per_image(self, tmp_path, images, captions):
        with pytest.raises(ValueError, match=f"{images} images and {captions} captions"):
            pictures.captioned_grid([flat(0)] * images, ["x"] * captions, tmp_path / "x.png")
        assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text("abcW", min_size=1, max_size=12), max_size=12),
    st.integers(60, 300),
)
def test_wrapping_keeps_every_word_in_order_and_every_line_short(words, width):
    lines = sheet.wrap([Word(word) for word in words], width)
    for line in lines:
        for offset, word in line:
            assert offset + sheet.text_width(word.text, TEXT, "plain") <= width
    written = [word.text for line in lines for _, word in line]
    assert len(written) == len(words)
    for text, word in zip(written, words, strict=True):
        assert text == word or (text.endswith("…") and word.startswith(text[:-1]))


def test_endless_words_are_cut_after_a_few_measurements(monkeypatch):
    measured = []
    width = sheet.text_width

    def counting(text, size, mark):
        measured.append(len(text))
        return width(text, size, mark)

    monkeypatch.setattr(sheet, "text_width", counting)
    ((_, word),) = sheet.wrap([Word("w" * 100_000)], 200)[0]
    assert word.text.endswith("…") and width(word.text, TEXT, "plain") <= 200
    assert width("w" * len(word.text) + "…", TEXT, "plain") > 200
    assert sum(measured) < 2000


@settings(deadline=None, max_examples=40)
@given(st.text("ilW….äM", min_size=1, max_size=60), st.integers(1, 200))
def test_a_cut_word_is_the_longest_beginning_that_fits(text, width):
    ((_, word),) = sheet.wrap([Word(text)], width)[0]
    expected = text
    while sheet.text_width(expected, TEXT, "plain") > width and len(expected) > 1:
        expected = expected[:-2].rstrip("…") + "…" if len(expected) > 2 else expected[:1]
    assert word.text == expected


def test_marks_change_what_is_drawn(tmp_path):
    pages = []
    for mark in ("plain", "new", "gone"):
        page = sheet.Sheet(80, 30)
        page.write([[(0, Word("bird", mark))]], 5, 5)
        page.save(tmp_path / f"{mark}.png")
        pages.append(pixels(tmp_path / f"{mark}.png").astype(int))
    plain, new, gone = pages
    assert (new[..., 0] - new[..., 1]).max() > 100 >= (plain[..., 0] - plain[..., 1]).max()
    longest_run = (gone < 200).all(-1).sum(1).max()
    assert (
        longest_run >= sheet.text_width("bird", TEXT, "gone") > (plain < 200).all(-1).sum(1).max()
    )


class TestTrainingGrid:
    def test_real_images_stand_above_every_stage(self, tmp_path):
        real, fake = noisy(3, 3, 160, 160), [noisy(3, 3, 40, 40), noisy(3, 3, 160, 160, seed=1)]
        pictures.training_grid(real, fake, ["a", "b", "c"], tmp_path / "x.png", limit=2)
        page = pixels(tmp_path / "x.png")
        first = np.asarray(pictures.to_picture(real[0]))
        last = np.asarray(pictures.to_picture(fake[-1][1]))
        assert contains(page[: 160 + 4 * pictures.GAP], first)
        assert contains(page[2 * 160 :], last)
        assert not contains(page, np.asarray(pictures.to_picture(real[2])))
        assert page.shape[0] >= 3 * 160


class TestOverlay:
    def test_heat_lies_where_the_layout_does(self):
        layout = torch.zeros(2, 8, 8)
        layout[0, :4, :4] = 1
        layout[1, 4:, 4:] = 1
        cells = pictures.layout_overlay(flat(-1, 32), layout, 64).astype(float).mean(-1)
        assert cells.shape == (2, 64, 64)
        for cell, (y, x) in zip(cells, ((0, 0), (40, 40)), strict=True):
            assert cell[y : y + 24, x : x + 24].min() > 100
            cell[y : y + 24, x : x + 24] = 0
        assert cells[0, 40:, 40:].max() < 5 and cells[1, :24, :24].max() < 5

    def test_nothing_but_the_dimmed_picture_where_the_layout_is_zero(self):
        image = noisy(3, 64, 64)
        dimmed = pictures.layout_overlay(image, torch.zeros(1, 4, 4), 64)[0].astype(float)
        picture = np.asarray(pictures.to_picture(image)).astype(float)
        expected = 0.35 * picture + 0.2 * picture.mean(-1, keepdims=True)
        assert np.abs(dimmed - expected).max() <= 0.5 + 1e-3

    def test_an_undecided_layout_is_dim(self):
        uniform = torch.full((4, 8, 8), 0.25)
        decided = uniform.clone()
        decided[:, 2, 2] = torch.tensor([1.0, 0, 0, 0])
        dim = pictures.layout_overlay(flat(-1), uniform, 32).max()
        assert dim < 0.6 * pictures.layout_overlay(flat(-1), decided, 32).max()

    def test_sources_of_any_grid_on_one_sheet(self, tmp_path):
        words = [f"word{n}" for n in range(12)]
        rows = [
            OverlayRow("drawn Θ", noisy(3, 64, 64), torch.full((18, 16, 16), 1 / 12)),
            OverlayRow("real Θ*", noisy(3, 32, 32), torch.full((12, 8, 8), math.nan)),
        ]
        pictures.overlay_sheet(rows, words, tmp_path / "x.png", title="of twelve words")
        height, width = pixels(tmp_path / "x.png").shape[:2]
        assert height > 4 * pictures.MIN_SIDE and width > 7 * pictures.MIN_SIDE

    def test_bad_input_is_named(self, tmp_path):
        row = OverlayRow("drawn", flat(0), torch.zeros(2, 4, 4))
        with pytest.raises(ValueError, match="drawn: the layout has 2 channels for 3 words"):
            pictures.overlay_sheet([row], ["a", "b", "c"], tmp_path / "x.png")
        with pytest.raises(ValueError, match="0 rows"):
            pictures.overlay_sheet([], ["a"], tmp_path / "x.png")
        assert not list(tmp_path.iterdir())


class TestCurves:
    def test_one_panel_per_group(self, tmp_path):
        one = [{"step": n, "images": n, "G/total": 1.0 / n} for n in range(1, 5)]
        two = [{**line, "D64/total": -1e-5, "D64/real": 3e4, "note": "text"} for line in one]
        pictures.curves(one, tmp_path / "one.png")
        pictures.curves(two, tmp_path / "two.png")
        one, two = (pixels(tmp_path / f"{name}.png") for name in ("one", "two"))
        assert two.shape[1] == 2 * one.shape[1]
        assert (two[:, : one.shape[1]] < 200).any() and (two[:, one.shape[1] :] < 200).any()

    def test_terms_are_drawn_in_the_panels_they_name(self, tmp_path):
        losses = [{"step": n, "D64/total": n, "D64/real": n} for n in (1, 2)]
        more = [{**line, "D64/logit_real": -n, "D64/gradient_norm": n} for n, line in
                enumerate(losses)]  # fmt: skip
        pictures.curves(losses, tmp_path / "one.png")
        panels = {"D64/logit_real": "D64 logits", "D64/gradient_norm": "gradient norms"}
        pictures.curves(more, tmp_path / "three.png", panels)
        one, three = (pixels(tmp_path / f"{name}.png") for name in ("one", "three"))
        assert three.shape[1] == 3 * one.shape[1]

    def test_single_points_gaps_and_bad_values_are_drawn(self, tmp_path):
        stats = [{"step": 1, "G/x": math.nan}, {"step": 2, "val/r1": 0.5}, {"step": 3, "G/x": 0}]
        pictures.curves(stats, tmp_path / "x.png")
        assert (tmp_path / "x.png").exists()

    def test_nothing_to_draw_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="nothing to draw"):
            pictures.curves([{"step": 1, "images": 3}], tmp_path / "x.png")


def test_a_failure_while_rendering_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    pictures.captioned_grid([flat(0)], ["old"], path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("baselines.training.checkpoint.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.captioned_grid([flat(1)], ["new"], path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_attempt_reports_a_failure_and_goes_on(caplog):
    done = []
    assert pictures.attempt(lambda: done.append(1), "a grid") and done
    assert not pictures.attempt(lambda: 1 / 0, "a grid")
    assert "a grid could not be drawn" in caplog.text and "ZeroDivisionError" in caplog.text
