import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import baselines
from baselines import runs
from baselines.data import Vocabulary, tokenize
from baselines.sampling.pipeline import CaptionError, Pipeline, read_caption
from baselines.sampling.variations import caption_path, mark_changes, mark_unknown, noise_path
from baselines.training.checkpoint import CheckpointError
from tests.support.tiny_run import make_tiny_run

TEXTS = [
    "a small red circle",
    "a large green star above a blue square on a plain background",
    "the picture shows a yellow ring at the top",
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    return baselines.load(make_tiny_run(tmp_path_factory.mktemp("run")), device="cpu")


def arrays(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def close(first, second):
    return all(
        torch.allclose(a, b, atol=2e-5)
        for a, b in zip(first.images + first.layouts, second.images + second.layouts, strict=True)
    )


def test_importing_the_package_imports_no_torch():
    code = "import sys, baselines; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = baselines.nothing


class TestCalling:
    def test_one_picture_per_caption_and_sample_in_order(self, pipeline):
        images = pipeline(TEXTS[:2], samples=2)
        assert [image.size for image in images] == [(32, 32)] * 4
        for place, text in enumerate(TEXTS[:2]):
            alone = arrays(pipeline(text, samples=2))
            assert np.abs(alone - arrays(images[2 * place : 2 * place + 2])).max() <= 1

    def test_the_seed_decides_everything_and_touches_nothing(self, pipeline):
        state = torch.get_rng_state()
        buffers = {name: b.clone() for name, b in pipeline.run.generator.named_buffers()}
        first = pipeline.generate(TEXTS, seed=3)
        torch.rand(5)
        again, other = pipeline.generate(TEXTS, seed=3), pipeline.generate(TEXTS, seed=4)
        assert all(map(torch.equal, first.images, again.images))
        assert (first.images[-1] - other.images[-1]).abs().max() > 0.05
        torch.set_rng_state(state)
        pipeline(TEXTS)
        assert torch.equal(state, torch.get_rng_state())
        for name, buffer in pipeline.run.generator.named_buffers():
            assert torch.equal(buffer, buffers[name])

    def test_samples_differ_and_more_of_them_change_none(self, pipeline):
        three, one = pipeline.generate(TEXTS[0], samples=3), pipeline.generate(TEXTS[0])
        assert three.samples == (0, 1, 2)
        assert torch.allclose(three.images[-1][:1], one.images[-1], atol=2e-5)
        assert (three.images[-1][0] - three.images[-1][1]).abs().max() > 0.05

    @pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
    def test_batch_size_and_company_change_nothing(self, pipeline, batch_size):
        together = pipeline.generate(TEXTS, samples=2, batch_size=batch_size)
        alone = [pipeline.generate(text, samples=2) for text in TEXTS]
        for place, drawings in enumerate(alone):
            rows = slice(2 * place, 2 * place + 2)
            for all_stages, stage in zip(together.images, drawings.images, strict=True):
                assert torch.allclose(all_stages[rows], stage, atol=2e-5)

    def test_equals_the_generator_called_by_hand(self, pipeline):
        run, text = pipeline.run, TEXTS[1]
        ids = torch.tensor([run.encoders.vocabulary.encode(text)])
        noise, eps = pipeline.noise([0, 1], seed=7)
        with torch.inference_mode():
            encoded = run.encoders.text(ids, torch.tensor([ids.shape[1]]))
            for row in range(2):
                output = run.generator(
                    noise[row : row + 1],
                    encoded.sentence,
                    encoded.words,
                    torch.tensor([ids.shape[1]]),
                    eps=eps[row : row + 1],
                )
                drawings = pipeline.generate(text, seed=7, samples=2)
                for stage, image in zip(drawings.images, output.images, strict=True):
                    assert torch.allclose(stage[row], image[0], atol=2e-5)

    def test_mean_conditioning_leaves_out_the_conditioning_noise_alone(self, pipeline):
        noise, eps = pipeline.noise([0, 1], 5)
        same_noise, none = pipeline.noise([0, 1], 5, mean_conditioning=True)
        assert torch.equal(noise, same_noise) and eps.all() and not none.any()
        mean = pipeline.generate(TEXTS[0], mean_conditioning=True).images[-1]
        assert not torch.equal(mean, pipeline.generate(TEXTS[0]).images[-1])

    def test_layouts_are_distributions_over_the_words_of_each_caption(self, pipeline):
        drawings = pipeline.generate(TEXTS)
        for layout in drawings.layouts:
            for caption, theta in zip(drawings.captions, layout, strict=True):
                count = len(caption.words)
                assert torch.allclose(theta[:count].sum(0), torch.ones(()), atol=1e-5)
                assert not theta[count:].any()
        assert not any(t.requires_grad for t in drawings.images + drawings.layouts)

    def test_weights_of_the_untrained_network_can_be_chosen(self, pipeline):
        directory = pipeline.run.directory
        first = baselines.load(directory, device="cpu", weights=runs.INITIAL).generate(TEXTS)
        assert close(first, pipeline.generate(TEXTS))


@pytest.mark.parametrize(
    ("model", "settings", "sizes"),
    [
        ("dmgan", {}, [16, 32]),
        ("alrgan", {"stages": 3}, [16, 32, 64]),
        ("attngan", {"single_image": True}, [32]),
        ("attngan", {"stages": 1}, [16]),
        ("attngan", {"legacy_mask": True}, [16, 32]),
    ],
)
def test_every_model_draws_independently_of_the_batch(tmp_path, model, settings, sizes):
    pipeline = baselines.load(make_tiny_run(tmp_path, model, **settings), device="cpu")
    together = pipeline.generate(TEXTS)
    assert [image.shape[-1] for image in together.images] == sizes
    for row, text in enumerate(TEXTS):
        alone = pipeline.generate(text)
        for all_rows, single in zip(together.images, alone.images, strict=True):
            assert torch.allclose(all_rows[row], single[0], atol=2e-5)


class TestReading:
    def test_unknown_words_are_named_in_a_warning_and_in_the_result(self, pipeline, caplog):
        with caplog.at_level(logging.WARNING, "baselines"):
            drawings = pipeline.generate("a red Zorgle and a blue FROB, zorgle")
        assert drawings.captions[0].unknown == ("zorgle", "frob")
        assert "'zorgle', 'frob'" in caplog.text

    def test_an_unknown_word_keeps_its_place_or_is_left_out(self):
        keeping = Vocabulary(["a", "red", "bird"])
        caption = read_caption("A red zorgle, bird", keeping, 18)
        assert caption.words == ("a", "red", "zorgle", "bird")
        assert caption.ids == (2, 3, 1, 4)
        dropping = Vocabulary(["a", "red", "bird"], unknown=False)
        caption = read_caption("A red zorgle, bird", dropping, 18)
        assert caption.words == ("a", "red", "bird") and caption.ids == (1, 2, 3)
        assert caption.unknown == ("zorgle",)

    def test_a_long_caption_is_cut_and_says_so(self, pipeline, caplog):
        long = " ".join(["a red circle"] * 7)
        with caplog.at_level(logging.WARNING, "baselines"):
            drawings = pipeline.generate(long)
        assert len(drawings.captions[0].words) == 18
        assert drawings.captions[0].cut == ("a", "red", "circle")
        assert "cut after 18 words, without 'a red circle'" in caplog.text
        assert close(drawings, pipeline.generate(" ".join(["a red circle"] * 6)))

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ([], "no caption given"),
            ("", "a caption is empty"),
            (["a red circle", " \t"], "a caption is empty"),
            ("?!", "no word of '\\?!' is in the vocabulary"),
            ("zorgle frob", "no word of 'zorgle frob' is in the vocabulary"),
            ("a red \udcff circle", r"'a red \\udcff circle' is not UTF-8"),
            (["x1", "", "x2"], "'x1'.*empty.*'x2'"),
        ],
    )
    def test_captions_that_say_nothing_are_named(self, pipeline, texts, message):
        with pytest.raises(CaptionError, match=message):
            pipeline(texts)

    def test_other_mistakes_are_named_before_anything_is_drawn(self, pipeline):
        with pytest.raises(TypeError, match="got 7"):
            pipeline([7])
        with pytest.raises(ValueError, match="samples=0"):
            pipeline.stream(pipeline.read("a red circle"), samples=0)
        with pytest.raises(ValueError, match="batch_size=-1"):
            pipeline("a red circle", batch_size=-1)
        with pytest.raises(ValueError, match="device 'tpu9' does not exist"):
            baselines.load(pipeline.run.directory, device="tpu9")
        with pytest.raises(CheckpointError, match="not a run directory"):
            baselines.load(pipeline.run.directory / "nowhere", device="cpu")


def plain(words, marks):
    return [word.text for word in words if word.mark in marks]


class TestMarks:
    def test_changed_words_are_marked(self):
        marked = mark_changes("a small red bird", "a red bird, flying")
        assert [tuple(word) for word in marked] == [
            ("a", "plain"), ("small", "gone"), ("red", "plain"), ("bird,", "plain"),
            ("flying", "new"),
        ]  # fmt: skip

    def test_case_and_punctuation_are_no_change(self):
        assert {word.mark for word in mark_changes("A red bird.", "a Red, bird")} == {"plain"}

    @given(*[st.lists(st.sampled_from("abcde"), max_size=8)] * 2)
    def test_both_captions_can_be_read_off(self, base, changed):
        marked = mark_changes(" ".join(base), " ".join(changed))
        assert plain(marked, ("plain", "new")) == changed
        assert plain(marked, ("plain", "gone")) == base

    def test_unknown_words_are_struck_out(self):
        text = "a Zorgle, red"
        caption = read_caption(text, Vocabulary(["a", "red"]), 18)
        assert plain(mark_unknown(caption), ("gone",)) == ["Zorgle,"]
        assert tokenize(" ".join(plain(mark_unknown(caption), ("plain",)))) == ["a", "red"]


class TestPaths:
    @pytest.fixture
    def ends(self, pipeline):
        return lambda text, sample: pipeline.encode(
            pipeline.read(text), *pipeline.noise([sample], 0)
        )

    def test_noise_path_ends_at_the_plain_drawings(self, pipeline, ends):
        path = noise_path(ends(TEXTS[0], 0), ends(TEXTS[0], 1), 4)
        images = pipeline.draw(path).images[-1]
        plain_images = pipeline.generate(TEXTS[0], samples=2).images[-1]
        assert torch.allclose(images[[0, -1]], plain_images, atol=2e-5)
        steps = (images[1:] - images[:-1]).abs().mean((1, 2, 3))
        assert steps.min() > 0 and steps.max() < (images[0] - images[-1]).abs().mean()

    def test_noise_keeps_its_length_along_the_path(self, ends):
        first, second = ends(TEXTS[0], 0), ends(TEXTS[0], 1)
        norms = noise_path(first, second, 9).noise.norm(dim=1)
        assert norms.min() > 0.9 * min(norms[0], norms[-1])
        assert norms.max() < 1.1 * max(norms[0], norms[-1])

    def test_without_conditioning_noise_there_is_none_on_the_path(self, pipeline):
        ends = [
            pipeline.encode(pipeline.read(TEXTS[0]), *pipeline.noise([s], 0, True)) for s in (0, 1)
        ]
        path = noise_path(*ends, 3)
        assert not path.eps.any() and path.noise.isfinite().all()

    @pytest.mark.parametrize("texts", [TEXTS[:2], TEXTS[1::-1]])
    def test_caption_path_ends_at_the_plain_drawings(self, pipeline, ends, texts):
        path = caption_path(*(ends(text, 0) for text in texts), 3)
        images = pipeline.draw(path).images[-1]
        assert torch.allclose(images[[0, -1]], pipeline.generate(texts).images[-1], atol=2e-5)
        longest = max(len(tokenize(text)) for text in texts)
        assert path.lengths[1] == longest
        layouts = pipeline.draw(path).layouts[0]
        assert torch.allclose(layouts[1, :longest].sum(0), torch.ones(()), atol=1e-5)

    def test_captions_of_equal_length_meet_word_by_word(self, ends):
        first, second = ends("a red circle", 0), ends("a blue star", 0)
        middle = caption_path(first, second, 3).words[1]
        expected = (first.words[0] + second.words[0]) / 2
        assert torch.allclose(middle[:, :3], expected[:, :3], atol=1e-6)

    def test_from_a_caption_to_itself_nothing_changes(self, ends):
        path = caption_path(ends(TEXTS[1], 0), ends(TEXTS[1], 0), 4)
        for values in (path.noise, path.eps, path.sentence, path.words):
            assert torch.allclose(values, values[:1].expand_as(values), atol=1e-6)

    def test_a_path_needs_two_ends(self, ends):
        with pytest.raises(ValueError, match="1 steps"):
            noise_path(ends(TEXTS[0], 0), ends(TEXTS[0], 1), 1)
