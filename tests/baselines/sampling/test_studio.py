import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

import baselines
from baselines.data import Vocabulary
from baselines.data.loader import seeded_rng
from baselines.errors import UserError
from baselines.pictures.grids import layout_overlay, to_picture
from baselines.sampling import studio as studio_module
from baselines.sampling.pipeline import EncodedCaption, Pipeline
from baselines.sampling.studio import Prompt, Studio, difference, place_of, replaced
from tests.support.tiny_run import make_tiny_run

TEXT = "a red star on the left of a red ring"
WORDS = TEXT.split()
ROUNDING = 2  # of 255: of a pixel before it is enlarged


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> dict[str, Pipeline]:
    folder = tmp_path_factory.mktemp("runs")
    hosts = {"one": ("attngan", {}), "two": ("dmgan", {}), "flat": ("attngan", {"stages": 1})}
    loaded = {
        name: baselines.load(make_tiny_run(folder / name, host, **settings), device="cpu")
        for name, (host, settings) in hosts.items()
    }
    for pipeline in loaded.values():
        for name, weight in pipeline.run.generator.named_parameters():
            if "fusion" in name and ("word" in name or "key" in name):
                weight.data *= 20  # untrained, all words would be everywhere alike
    return loaded


@pytest.fixture
def studio(pipelines) -> Studio:
    return Studio(pipelines)


def by_hand(pipeline: Pipeline, text: str, seed: int, sample: int):
    """The generator's output from a stream that is seeded here, without the pipeline."""
    run = pipeline.run
    rng = seeded_rng(seed, sample)
    noise, eps = (torch.randn(1, size, generator=rng) for size in (10, 12))
    ids = torch.tensor([run.encoders.vocabulary.encode(text)])
    lengths = torch.tensor([ids.shape[1]])
    with torch.inference_mode():
        encoded = run.encoders.text(ids, lengths)
        return run.generator(noise, encoded.sentence, encoded.words, lengths, eps=eps)


def apart(first: Image.Image, second: Image.Image) -> int:
    """The largest difference of any pixel, by PIL."""
    return max(high for _, high in ImageChops.difference(first, second).getextrema())


def test_all_runs_draw_from_the_same_noise(studio, pipelines):
    assert studio.same_noise
    for name, pipeline in pipelines.items():
        pictures = studio.pictures(name, Prompt(TEXT, seed=5, samples=2))
        for sample, picture in enumerate(pictures):
            image = by_hand(pipeline, TEXT, 5, sample).images[-1][0]
            assert picture.size == (256, 256)
            enlarged = to_picture(image).resize((256, 256), Image.BICUBIC)
            assert apart(picture, enlarged) <= ROUNDING


def test_runs_of_other_noise_widths_are_told_apart(pipelines, tmp_path):
    other = baselines.load(make_tiny_run(tmp_path / "wide", noise_dim=16), device="cpu")
    assert not Studio({**pipelines, "wide": other}).same_noise


@pytest.mark.parametrize("number", [1, 8, 9])  # "red", the other "red", "ring"
def test_the_overlay_of_a_word_is_its_layout(studio, pipelines, number):
    for name in ("one", "two"):
        output = by_hand(pipelines[name], TEXT, 3, 1)
        overlays = studio.overlays(name, Prompt(TEXT, 3, 2), 1, number)
        assert len(overlays) == len(output.layouts) == 1
        (layout,) = output.layouts
        expected = layout_overlay(output.images[-1][0], layout[0, : len(WORDS)], 256)
        shown = np.asarray(overlays[0].picture).astype(int)
        assert np.abs(shown - expected[number]).max() <= 1
        others = [n for n in range(len(WORDS)) if n != number]
        assert all(np.abs(shown - expected[n]).max() > 15 for n in others)
        mean, peak = 100 * layout[0, number].mean(), 100 * layout[0, number].max()
        assert overlays[0].numbers == f"mean {mean:.0f} %  peak {peak:.0f} %"
        assert overlays[0].regions == "16 × 16"


def test_a_model_without_layouts_says_so(studio):
    with pytest.raises(UserError, match="attngan has no stage that reads words"):
        studio.overlays("flat", Prompt(TEXT), 0, 1)
    assert studio.edit("flat", Prompt(TEXT), 0, 1, "blue").overlays == ()


class TestEditing:
    def test_before_and_after_are_those_of_the_two_captions(self, studio, pipelines):
        changed = TEXT.replace("ring", "blue cross")
        for name, pipeline in pipelines.items():
            edit = studio.edit(name, Prompt(TEXT, 2, 3), 2, 9, "blue cross")
            for picture, text in ((edit.before, TEXT), (edit.after, changed)):
                image = by_hand(pipeline, text, 2, 2).images[-1][0]
                enlarged = to_picture(image).resize((256, 256), Image.BICUBIC)
                assert apart(picture, enlarged) <= ROUNDING
            assert [word for word, _ in edit.overlays] == ["ring", "blue"] * pipeline.has_layouts

    def test_nothing_changes_where_the_word_is_replaced_by_itself(self, studio):
        for name in studio.pipelines:
            edit = studio.edit(name, Prompt(TEXT, 2, 3), 1, 1, "Red,")
            assert edit.mean == 0 and edit.difference.getbbox() is None, "all black"

    def test_the_difference_is_black_where_nothing_changed_and_only_there(self):
        before = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
        after = before.copy()
        after.paste((130, 100, 100), (2, 3, 5, 4))
        after.paste((255, 255, 255), (6, 6, 7, 8))
        shown = np.asarray(difference(before, after)).astype(int)
        moved = np.asarray(ImageChops.difference(before, after)).any(2)
        assert np.array_equal(shown.any(axis=2), moved) and moved.sum() == 5
        assert shown[6, 6].sum() > 600 > 200 > shown[3, 2].sum() > 0

    def test_the_mean_is_of_what_is_shown(self, studio):
        edit = studio.edit("one", Prompt(TEXT, 2), 0, 1, "green")
        channels = np.asarray(ImageChops.difference(edit.before, edit.after))
        assert edit.mean == pytest.approx(channels.mean(), rel=1e-5) and edit.mean > 0
        dark = np.asarray(edit.difference).any(axis=2) <= channels.any(axis=2)
        assert dark.all(), "colour where nothing changed"

    def test_a_caption_may_lose_a_word_and_not_its_last(self, studio):
        assert replaced(WORDS, 0, " ") == TEXT.removeprefix("a ")
        with pytest.raises(UserError, match="a caption is empty"):
            studio.edit("one", Prompt("star"), 0, 0, "")


class TestWords:
    @pytest.mark.parametrize(
        ("read", "number", "place"),
        [
            (WORDS, 8, 8),
            (["a", "red", "star", "red", "ring"], 8, 3),  # others unknown and left out
            (["a", "red", "star"], 8, None),  # cut before the second "red"
            (["star"], 0, None),
        ],
    )
    def test_a_word_is_found_where_the_run_reads_it(self, read, number, place):
        caption = EncodedCaption(TEXT, (1,) * len(read), tuple(read))
        assert place_of(caption, WORDS, number) == place

    def test_unknown_words_name_who_does_not_know_them(self, pipelines, tmp_path):
        narrow = baselines.load(make_tiny_run(tmp_path / "narrow"), device="cpu")
        narrow.run.encoders.vocabulary = Vocabulary.build(["a red star"])
        words = Studio({**pipelines, "narrow": narrow}).words("A red ring, zorgle")
        assert [word.text for word in words] == ["a", "red", "ring", "zorgle"]
        assert [word.unknown_to for word in words[:2]] == [(), ()]
        assert words[2].unknown_to == ("narrow",) and words[3].unknown_to[-1] == "narrow"
        assert len(words[3].unknown_to) == 4

    def test_a_run_that_cannot_draw_the_caption_does_not_choose_the_word(self, pipelines, tmp_path):
        narrow = baselines.load(make_tiny_run(tmp_path / "narrow"), device="cpu")
        narrow.run.encoders.vocabulary = Vocabulary(["heart"], unknown=False)
        both = Studio({"narrow": narrow, "one": pipelines["one"]})
        alone = Studio({"one": pipelines["one"]})
        assert both.clearest_word(Prompt(TEXT)) == alone.clearest_word(Prompt(TEXT))

    def test_a_cut_word_is_no_place_but_a_message(self, studio):
        text = " ".join(["red star"] * 10)
        assert len(studio.overlays("one", Prompt(text), 0, 17)) == 1
        with pytest.raises(UserError, match="left out by this run: 'red', as all behind word 18"):
            studio.overlays("one", Prompt(text), 0, 18)

    def test_first_shown_is_the_word_whose_place_is_the_most_decided(self, studio, pipelines):
        (layout,) = by_hand(pipelines["one"], TEXT, 0, 0).layouts
        named = [n for n, word in enumerate(WORDS) if word in ("red", "star", "left", "ring")]
        ratios = {n: float(layout[0, n].max() / layout[0, n].mean()) for n in named}
        assert studio.clearest_word(Prompt(TEXT)) == max(named, key=ratios.__getitem__)
        assert Studio({"flat": pipelines["flat"]}).clearest_word(Prompt("a star on the")) == 1


class TestAsking:
    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            (Prompt("  "), "a caption is empty"),
            (Prompt("zorgle"), "no word of 'zorgle' is in the vocabulary"),
            (Prompt(TEXT, 0, 0), "0 samples: expected 1 to 8"),
            (Prompt(TEXT, 0, 9), "9 samples: expected 1 to 8"),
            (Prompt("a " * 501), "a caption of 1002 letters: expected 1000 at most"),
        ],
    )
    def test_what_cannot_be_drawn_is_refused(self, studio, prompt, message):
        with pytest.raises(UserError, match=message):
            studio.draw("one", prompt)

    def test_memory_that_is_short_is_an_error_of_one_line(self, studio, pipelines, monkeypatch):
        def exhausted(*arguments, **options):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 GiB")

        monkeypatch.setattr(pipelines["one"], "generate", exhausted)
        with pytest.raises(UserError, match=r"^samples=8: more than the memory of cpu holds"):
            studio.draw("one", Prompt(TEXT, 0, 8))

    def test_one_drawing_at_a_time_and_each_once(self, studio, pipelines, monkeypatch):
        running, most, drawn = 0, 0, []
        generate = pipelines["one"].generate

        def counted(text, **options):
            nonlocal running, most
            running += 1
            most = max(most, running)
            drawn.append(options["seed"])
            time.sleep(0.02)
            running -= 1
            return generate(text, **options)

        monkeypatch.setattr(pipelines["one"], "generate", counted)
        ask = [
            threading.Thread(target=studio.draw, args=("one", Prompt(TEXT, seed)))
            for seed in (0, 1, 2, 0, 1)
        ]
        for thread in ask:
            thread.start()
        for thread in ask:
            thread.join()
        assert most == 1 and sorted(drawn) == [0, 1, 2]

    def test_only_the_newest_drawings_are_kept(self, studio, monkeypatch):
        monkeypatch.setattr(studio_module, "KEPT", 2)
        first = studio.draw("one", Prompt(TEXT, 0))
        assert studio.draw("one", Prompt(TEXT, 0)) is first
        for seed in (1, 2):
            studio.draw("one", Prompt(TEXT, seed))
        again = studio.draw("one", Prompt(TEXT, 0))
        assert again is not first and torch.equal(again.images[-1], first.images[-1])

    def test_without_runs_there_is_no_studio(self):
        with pytest.raises(UserError, match="no run"):
            Studio({})
