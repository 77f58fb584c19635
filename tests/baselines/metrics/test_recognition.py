import json
import math
from types import SimpleNamespace

import pytest
import torch

from baselines import recognise
from baselines.data.scene_content import SHAPES
from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary
from baselines.errors import UserError
from baselines.metrics.recognition import SCENE_KINDS, each, exchanged, questions, recognition
from baselines.networks.encoders import ImageFeatures, TextFeatures
from tests.baselines.test_damsm import train_damsm
from tests.support.paths import ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("kind", "caption", "others"),
    [
        ("shape", "a red star at the top", ["circle", "square", "triangle", "diamond"]),
        ("place", "a red star on the left side", ["at the top center", "on the right side"]),
        ("place", "at the top in the middle is a ring", ["at the bottom in the middle is a ring"]),
        ("place", "a ring on the left of a star", []),
        ("relation", "a ring on the left of a star", ["a ring to the right of a star"]),
        ("relation", "a ring over a star", ["a ring below a star"]),
        ("size", "a medium sized ring", []),
        ("size", "A Little ring", ["A medium ring", "A large ring"]),
    ],
)
def test_a_phrase_gives_way_to_others_of_as_many_words(kind, caption, others):
    cases = exchanged(caption, SCENE_KINDS[kind])
    assert len(cases) == bool(others)
    for case in cases:
        assert case[0] == caption and len(set(case)) == len(case)
        assert {len(text.split()) for text in case} == {len(caption.split())}
        assert all(any(other in text for text in case[1:]) for other in others)


def test_every_phrase_of_a_caption_is_asked_for_by_itself():
    cases = exchanged("a red star left of a blue ring", SCENE_KINDS["colour"])
    assert [len(case) for case in cases] == [8, 8]
    assert "a green star left of a blue ring" in cases[0]
    assert "a red star left of a green ring" in cases[1]


def test_every_scene_caption_that_states_a_property_is_found():
    source = Scenes("test", max_objects=1, images=60)
    for index in range(len(source)):
        for caption, stated in zip(source.captions(index), source.described(index), strict=True):
            thing = stated.objects[0]
            assert len(exchanged(caption, SCENE_KINDS["colour"])) == 1
            assert len(exchanged(caption, SCENE_KINDS["shape"])) == 1
            placed = len(exchanged(caption, SCENE_KINDS["place"]))
            assert placed == (thing.place is not None)


class Toy:
    """Encoders that see the shape of scenes, except that `confused` ones look like the first.

    Each shape is a direction; a caption points at the sum of those it names.
    """

    config = SimpleNamespace(input_size=16)

    def __init__(self, source, confused=(), blind=False):
        words = sorted(
            {w for i in range(len(source)) for c in source.captions(i) for w in c.split()}
        )
        self.vocabulary = Vocabulary(sorted({*words, *SHAPES}))
        self.source, self.confused, self.blind = source, confused, blind
        self.asked = []
        self.text, self.image = self.module(self.read), self.module(self.look)
        self.keys = {tuple(source.image(i, 16).flatten().tolist()): i for i in range(len(source))}

    @staticmethod
    def module(forward):
        class Module(torch.nn.Module):
            def forward(self, *arguments):
                return forward(*arguments)

        return Module()

    def direction(self, shape):
        seen = SHAPES[0] if shape in self.confused else shape
        return torch.eye(len(SHAPES))[SHAPES.index(seen)]

    def read(self, ids, lengths):
        texts = [self.vocabulary.decode(row) for row in ids.tolist()]
        self.asked += [" ".join(text) for text in texts]
        words = torch.stack(
            [
                torch.stack([self.direction(w) if w in SHAPES else torch.zeros(8) for w in text])
                for text in texts
            ]
        ).transpose(1, 2)
        return TextFeatures(words, words.sum(dim=2))

    def look(self, images):
        codes = [
            self.direction(
                self.source.scene(self.keys[tuple(image.flatten().tolist())]).objects[0].shape
            )
            for image in images
        ]
        code = torch.ones(len(images), 8) if self.blind else torch.stack(codes)
        return ImageFeatures(code[:, :, None, None].expand(-1, -1, 2, 2), code)


def measured(encoders, source, **changed):
    options = {"images": 50, "max_words": 18, "gamma1": 4.0, "gamma2": 5.0, "device": CPU} | changed
    return recognition(encoders, source, SCENE_KINDS["shape"], **options)


def test_encoders_that_see_are_told_from_blind_and_from_confused_ones():
    source = Scenes("test", max_objects=1, images=50)
    seeing = measured(Toy(source), source)
    assert seeing["words"].value == seeing["sentence"].value == 1
    assert seeing["words"].chance == pytest.approx(1 / 8) and seeing["words"].count == 50
    blind = measured(Toy(source, blind=True), source)
    assert blind["words"].value == blind["sentence"].value == 0  # an equal score counts as wrong
    two = SHAPES[:2]
    expected = sum(source.scene(i).objects[0].shape not in two for i in range(50)) / 50
    confused = measured(Toy(source, confused=two), source)
    assert confused["sentence"].value == pytest.approx(expected)
    error = math.sqrt(expected * (1 - expected) / 49)
    assert confused["sentence"].error == pytest.approx(error)


def test_captions_that_the_vocabulary_cannot_read_are_not_asked():
    source = Scenes("test", max_objects=1, images=50)
    encoders = Toy(source)
    known = [word for word in encoders.vocabulary.words[2:] if word != "ring"]
    encoders.vocabulary = Vocabulary(known)
    score = measured(encoders, source)["words"]
    assert not any("ring" in caption for caption in encoders.asked)
    rings = sum(source.scene(i).objects[0].shape == "ring" for i in range(50))
    assert rings and score.count == 50 - rings and score.chance == pytest.approx(1 / 7)
    asked = questions(source, SCENE_KINDS["shape"], encoders.vocabulary, images=50, max_words=5)
    assert asked and all(len(ids) <= 5 for one in asked for ids in one.captions)


def test_nothing_said_of_a_kind_is_no_number():
    source = Scenes("test", max_objects=1, images=5)
    options = {"images": 5, "max_words": 18, "gamma1": 4.0, "gamma2": 5.0, "device": CPU}
    found = recognition(Toy(source), source, each(["sofa", "chair"]), **options)["words"]
    assert math.isnan(found.value) and found.count == 0 and found.chance is None


@pytest.fixture(scope="module")
def damsm_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("recognise") / "damsm"
    train_damsm(run, 16)
    return run


def test_the_command_prints_a_table_and_keeps_the_numbers(damsm_run, capsys):
    recognise.main(["--encoders", str(damsm_run), "--images", "6", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "| shape" in printed and "kind relation" in printed
    report = json.loads((damsm_run / "recognition.json").read_text())
    assert report["images"] == 6 and report["data"]["name"] == "scenes"
    assert set(report["kinds"]) == set(SCENE_KINDS)
    assert 0 <= report["kinds"]["shape"]["words"]["value"] <= 1
    assert report["kinds"]["relation"]["words"]["value"] is None


def test_the_command_takes_kinds_of_ones_own(damsm_run, tmp_path, capsys):
    out = tmp_path / "own.json"
    kind = ["--kind", "warm=red, orange,yellow", "--out", str(out)]
    recognise.main(["--encoders", str(damsm_run), "--images", "8", "--device", "cpu", *kind])
    assert "| warm " in capsys.readouterr().out
    assert json.loads(out.read_text())["kinds"]["warm"]["meanings"] == [
        ["red"], ["orange"], ["yellow"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["red,blue", "colour=red", "colour=red,", "=red,blue", "c=red,red"]
)
def test_a_kind_that_is_none_is_one_line(text, capsys):
    with pytest.raises(SystemExit) as ended:
        recognise.main(["--encoders", "x", "--kind", text])
    assert ended.value.code == 2
    assert f"argument --kind: {text!r}: expected NAME=WORD,WORD" in capsys.readouterr().err


def test_what_was_measured_is_whole():
    files = sorted((ROOT / "benchmarks/results/recognition").glob("*.json"))
    assert files
    for path in files:
        for kind in json.loads(path.read_text())["kinds"].values():
            for score in (kind["words"], kind["sentence"]):
                assert (score["value"] is None) == (score["count"] == 0)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config.json: no such file; --encoders takes a run"):
        recognise.main(["--encoders", str(tmp_path)])
