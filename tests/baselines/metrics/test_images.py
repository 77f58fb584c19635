from dataclasses import replace

import pytest
import torch

from baselines.data import Vocabulary
from baselines.data.scenes import Scenes
from baselines.metrics.images import drawn_batches, real_batches
from baselines.metrics.pairs import encode_sentences, read_pairs
from baselines.metrics.spec import partners
from baselines.runs import load_run
from baselines.sampling.pipeline import Pipeline
from tests.support.tiny_run import make_tiny_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


def test_pairs_show_every_image_once_before_any_twice():
    source = Scenes("test", images=6)
    vocabulary = Vocabulary.build(Scenes.vocabulary_captions())
    pairs = read_pairs(source, vocabulary, 18)
    assert len(pairs) == 60 and pairs.different == 6
    assert pairs.images.tolist() == list(range(6)) * 10
    assert pairs.captions[:12].tolist() == [0] * 6 + [1] * 6
    words = pairs.ids[7, : pairs.lengths[7]].tolist()
    assert " ".join(vocabulary.decode(words)) == source.captions(1)[1]
    short = read_pairs(source, vocabulary, 4)
    assert short.truncated == int((pairs.lengths > 4).sum()) > 0
    assert int(short.lengths.max()) == 4


def first_images(run, count, batch_size, seed=0, **options):
    pairs = read_pairs(Scenes("test", images=8, max_objects=2), run.encoders.vocabulary, 18)
    batches = drawn_batches(
        run.generator, pairs, run.encoders.text, count=count, batch_size=batch_size, seed=seed,
        device=torch.device("cpu"), **options,
    )  # fmt: skip
    with torch.inference_mode():
        return list(batches)


def images_of(batches):
    return torch.cat([batch.images for batch in batches])


def test_an_image_depends_on_its_pair_and_seed_alone(tiny):
    run = load_run(tiny)
    whole = images_of(first_images(run, 20, 20))
    torch.testing.assert_close(
        images_of(first_images(run, 11, 3)), whole[:11], rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(images_of(first_images(run, 11, 3, 1)), whole[:11], atol=1e-2)


def test_more_samples_leave_the_first_as_it_was(tiny):
    run = load_run(tiny)
    batches = first_images(run, 6, 4, samples=3)
    assert [batch.sample for batch in batches] == [0, 0, 1, 1, 2, 2]
    assert torch.cat([batch.rows for batch in batches]).tolist() == [*range(6)] * 3
    images = images_of(batches)
    torch.testing.assert_close(images[:6], images_of(first_images(run, 6, 4)))
    assert not torch.allclose(images[:6], images[6:12], atol=1e-2)


def test_a_converted_original_is_not_drawn_by_its_batch_neighbours(tiny):
    """Its mis-tiled mask lets the images of a batch disturb each other."""
    run = load_run(tiny)
    run.generator.legacy_mask = True
    with torch.no_grad():
        for parameter in run.generator.stages.parameters():
            parameter.mul_(2.0)
    alone, together = (images_of(first_images(run, 10, size)) for size in (1, 10))
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=2e-4)


def test_the_command_draws_what_the_pipeline_draws(tiny):
    run = load_run(tiny)
    run.generator.legacy_mask = True
    pairs = read_pairs(Scenes("test", images=8, max_objects=2), run.encoders.vocabulary, 18)
    pipeline = Pipeline(run)
    texts = [Scenes("test", images=8, max_objects=2).captions(index)[0] for index in range(8)]
    captions = pipeline.read(texts)
    noise = pipeline.noise(range(8), seed=0)
    expected = pipeline.draw(pipeline.encode(captions, *noise), batch_size=8).images[-1]
    assert pairs.images[:8].tolist() == list(range(8))
    torch.testing.assert_close(images_of(first_images(run, 8, 8)), expected, rtol=1e-4, atol=1e-5)


def test_captions_that_are_the_same_have_the_same_vector_to_the_bit(tiny):
    run = load_run(tiny)
    pairs = read_pairs(Scenes("test", images=80, max_objects=1), run.encoders.vocabulary, 18)
    rows = torch.arange(len(pairs))
    # The same caption again in another batch, among captions of other lengths.
    twice = replace(
        pairs,
        ids=torch.cat([pairs.ids, pairs.ids.flip(0)]),
        lengths=torch.cat([pairs.lengths, pairs.lengths.flip(0)]),
    )
    found = encode_sentences(twice, run.encoders.text, torch.device("cpu"))
    assert torch.equal(found[rows], found[len(pairs) :].flip(0))


def test_real_images_are_those_of_their_pairs(tiny):
    run = load_run(tiny)
    source = Scenes("test", images=5, max_objects=2)
    pairs = read_pairs(source, run.encoders.vocabulary, 18)
    shown = list(
        real_batches(
            source, pairs, count=5, size=32, batch_size=2, workers=0,
            device=torch.device("cpu"),
        )
    )  # fmt: skip
    assert [len(batch.rows) for batch in shown] == [2, 2, 1]
    assert torch.equal(shown[1].images[1], source.image(3, 32))


def test_partners_are_of_another_class():
    ids = torch.tensor([5, 5, 5, 7, 9, 5])
    found = partners(ids, seed=2)
    assert (ids[found] != ids).all()
    assert torch.equal(found, partners(ids, seed=2))
    assert partners(torch.tensor([4, 4]), seed=0).tolist() == [0, 1]
