import json
from typing import ClassVar

import pytest
import torch
from PIL import Image

from baselines import geneval as command
from baselines.data.scenes import Scenes
from baselines.data.source import DataError
from baselines.errors import UserError
from baselines.metrics.colours import cut_out
from baselines.metrics.detectors import Detection
from baselines.metrics.geneval import (
    Prompt,
    Wanted,
    holds,
    parse_prompt,
    read_folder,
    read_prompts,
    task_scores,
)
from baselines.pictures.grids import to_picture
from tests.support.tiny_run import make_tiny_run

LEFT, RIGHT = (0.0, 0.4, 0.2, 0.6), (0.7, 0.4, 0.9, 0.6)


def dog(box=LEFT, score=0.8, colour=None):
    return Detection("dog", score, box, colour)


def cat(box=RIGHT, score=0.8, colour=None):
    return Detection("cat", score, box, colour)


def prompt(tag, *include, exclude=()):
    return Prompt(tag, "", include, exclude)


ONE_DOG, ONE_CAT = Wanted("dog", 1), Wanted("cat", 1)
POSITION = prompt("position", ONE_CAT, Wanted("dog", 1, position=("left of", 0)))
RED_DOG_BLUE_CAT = prompt("color_attr", Wanted("dog", 1, "red"), Wanted("cat", 1, "blue"))
TWO_DOGS = prompt("counting", Wanted("dog", 2), exclude=(Wanted("dog", 3),))


@pytest.mark.parametrize(
    ("wanted", "found", "right"),
    [
        (prompt("single_object", ONE_DOG), [dog()], True),
        (prompt("single_object", ONE_DOG), [cat()], False),
        (prompt("single_object", ONE_DOG), [dog(score=0.29)], False),
        (prompt("two_object", ONE_DOG, ONE_CAT), [dog(), cat()], True),
        (prompt("two_object", ONE_DOG, ONE_CAT), [dog(), dog()], False),
        (TWO_DOGS, [dog(score=0.95), dog(score=0.91)], True),
        # Counting asks for more confidence: one more at 0.89 does not count.
        (TWO_DOGS, [dog(score=0.95), dog(score=0.91), dog(score=0.89)], True),
        (TWO_DOGS, [dog(score=0.95), dog(score=0.89)], False),
        (TWO_DOGS, [dog(score=0.95)] * 3, False),
        (prompt("colors", Wanted("dog", 1, "red")), [dog(colour="red")], True),
        # The most confident dog is meant, not any red one.
        (
            prompt("colors", Wanted("dog", 1, "red")),
            [dog(colour="blue", score=0.9), dog(colour="red")],
            False,
        ),
        (POSITION, [dog(), cat()], True),
        (POSITION, [dog(RIGHT), cat(LEFT)], False),
        (POSITION, [dog()], False),
        (RED_DOG_BLUE_CAT, [dog(colour="red"), cat(colour="blue")], True),
        (RED_DOG_BLUE_CAT, [dog(colour="blue"), cat(colour="red")], False),
    ],
)
def test_known_answers(wanted, found, right):
    held, reason = holds(wanted, found)
    assert held == right and (reason == "") == right


def test_at_most_sixteen_of_a_class_are_looked_at():
    many = prompt("counting", Wanted("dog", 16), exclude=(Wanted("dog", 17),))
    assert holds(many, [dog(score=0.99)] * 20)[0]


def test_colours_may_be_named_by_another():
    wanted = prompt("colors", Wanted("dog", 1, "red"))
    assert holds(wanted, [dog()], colour_of=lambda detection: "red")[0]


def test_overall_is_the_mean_of_the_tasks_and_not_of_the_images():
    scores = task_scores(
        [("single_object", [True] * 4)] * 3 + [("position", [False, False, True, False])]
    )
    assert scores["single_object"].value == 1.0 and scores["position"].value == 0.25
    assert scores["overall"].value == pytest.approx(0.625)
    assert list(scores) == ["single_object", "position", "overall"]


def test_metadata_as_distributed_is_read(tmp_path):
    line = {
        "tag": "position",
        "include": [
            {"class": "bench", "count": 1},
            {"class": "bear", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a photo of a bear left of a bench",
    }
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n\n")
    (read,) = read_prompts(tmp_path / "m.jsonl")
    assert read.include == (Wanted("bench", 1), Wanted("bear", 1, None, ("left of", 0)))
    line["include"][1]["position"] = ["left of", 1]
    (tmp_path / "m.jsonl").write_text("\n" + json.dumps(line))
    with pytest.raises(DataError, match=r"m.jsonl, line 2: ValueError position refers to group 1"):
        read_prompts(tmp_path / "m.jsonl")
    with pytest.raises(KeyError):
        parse_prompt({"include": [{"class": "x"}]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"count": 1e999', "OverflowError"),
        ('"count": 1, "position": []', "IndexError"),
        ('"count": 1}], "prompt": ["x"], "rest": [{"a": 1', "'prompt' is \\['x'\\], no string"),
    ],
)
def test_prompts_of_another_form_are_named(tmp_path, change, message):
    line = '{"tag": "colors", "prompt": "x", "include": [{"class": "x", CHANGE}]}'
    (tmp_path / "m.jsonl").write_text(line.replace("CHANGE", change))
    with pytest.raises(DataError, match=f"m.jsonl, line 1: .*{message}.*expected a line like"):
        read_prompts(tmp_path / "m.jsonl")


def scenes_folder(path, scenes, number):
    """Real scenes in GenEval's layout: what their captions state."""
    prompts = []
    for index in range(number):
        caption = scenes.described(index)[0]
        if len({item.shape for item in caption.objects}) < len(caption.objects):
            continue  # the protocol cannot tell two of one class apart
        places = {item.index: n for n, item in enumerate(caption.objects)}
        include = [{"class": o.shape, "count": 1, "color": o.colour} for o in caption.objects]
        for i, relation, j in caption.relations:
            first, second = sorted((places[i], places[j]))
            turned = {"left of": "right of", "right of": "left of", "above": "below"}
            name = relation if places[i] > places[j] else turned.get(relation, "above")
            include[second]["position"] = [name, first]
        tag = "position" if caption.relations else "colors"
        prompts.append({"tag": tag, "include": include, "prompt": caption.text})
        folder = path / f"{index:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(prompts[-1]) + "\n")
        to_picture(scenes.image(index, 64)).save(folder / "samples" / "0000.png")
    return prompts


def test_the_command_scores_real_scenes_right_and_drawn_ones_beside(tmp_path, capsys):
    scenes = Scenes("test", images=40, max_objects=2)
    prompts = scenes_folder(tmp_path / "real", scenes, 40)
    lines = "\n".join(json.dumps(prompt) for prompt in prompts)
    (tmp_path / "prompts.jsonl").write_text(lines)
    run = make_tiny_run(tmp_path / "run")
    command.main(
        [
            "--images-from", str(tmp_path / "drawn"), "--detector", "scenes", "--run", str(run),
            "--prompts", str(tmp_path / "prompts.jsonl"), "--samples", "2", "--device", "cpu",
            "--rule", "dominant_axis", "--real", str(tmp_path / "real"),
        ]
    )  # fmt: skip
    report = json.loads((tmp_path / "drawn" / "geneval.json").read_text())
    scores = report["scores"]
    assert scores["real images"]["overall"]["value"] >= 0.95
    assert scores["images"]["overall"]["value"] < 0.5
    assert {"colors", "position"} < scores["images"].keys()
    assert report["settings"] == {
        "detector": "scenes", "finding": "graded", "rule": "dominant_axis",
    }  # fmt: skip
    # VISOR's scores stand beside: what is there, and where, given that it is.
    real, drawn = scores["real images"], scores["images"]
    assert real["visor/object_accuracy"]["value"] == real["visor/unconditional"]["value"] == 1.0
    assert drawn["visor/unconditional"]["value"] <= drawn["visor/object_accuracy"]["value"] < 0.5
    assert "visor/visor_2" in drawn and "visor/visor_3" not in drawn
    assert report["warnings"] == [
        "overall is the mean without single_object, two_object, counting, color_attr"
    ]
    entries = read_folder(tmp_path / "drawn")
    assert [len(images) for _, images in entries] == [2] * len(prompts)
    assert "real images" in capsys.readouterr().out
    with pytest.raises(UserError, match="is not empty"):
        command.draw(run, tmp_path / "prompts.jsonl", tmp_path / "drawn", 1, 0, "cpu")


def test_an_encoder_names_the_colours_that_a_detector_does_not(tmp_path, monkeypatch, capsys):
    """A red bench on green grass, found with its mask."""

    class Finder:
        labels = ("bench",)
        names_colours = False
        settings: ClassVar = {"detector": "finder"}

        def __call__(self, images):
            mask = images[0, 0] > 0
            return [[Detection("bench", 0.9, (0.0, 0.0, 1.0, 1.0), mask=mask)]]

    picture = Image.new("RGB", (8, 8), (0, 200, 0))
    picture.paste((200, 0, 0), (3, 3, 6, 6))
    for number, colour in enumerate(("red", "green")):
        folder = tmp_path / f"{number:05d}"
        (folder / "samples").mkdir(parents=True)
        picture.save(folder / "samples" / "0.png")
        include = [{"class": "bench", "count": 1, "color": colour}]
        line = {"tag": "colors", "include": include, "prompt": f"a {colour} bench"}
        (folder / "metadata.jsonl").write_text(json.dumps(line))
    monkeypatch.setattr(command, "open_detector", lambda *args, **kwargs: Finder())
    monkeypatch.setattr(command, "open_clip_encoder", lambda *args, **kwargs: Hues())
    options = ["--images-from", str(tmp_path), "--device", "cpu"]
    command.main([*options, "--clip", "ViT-L-14"])
    report = json.loads((tmp_path / "geneval.json").read_text())
    # The red one is right, the one that asks for green is not.
    assert report["scores"]["images"]["colors"]["value"] == 0.5
    assert report["settings"]["colours"] == {"encoder": "hues"}
    assert any("--real DIR" in warning for warning in report["warnings"])
    command.main(options)
    report = json.loads((tmp_path / "geneval.json").read_text())
    assert report["scores"]["images"].keys() == {"overall"}
    assert "names none; give --clip" in capsys.readouterr().out


class Hues:
    """Sees how much redder, greener and bluer than grey an image is; texts name a colour or not."""

    name, logit_scale = "hues", 1.0
    settings: ClassVar = {"encoder": "hues"}

    def images(self, images):
        means = images.mean(dim=(2, 3))
        return means - means.mean(dim=1, keepdim=True)

    def texts(self, texts):
        hues = {"red": (2.0, -1, -1), "green": (-1.0, 2, -1), "blue": (-1.0, -1, 2)}
        named = (next((hues[c] for c in hues if f" {c}" in text), (0.0, 0, 0)) for text in texts)
        return torch.tensor(list(named))


def test_objects_are_cut_out_with_grey_around_their_mask():
    image = torch.arange(48.0).reshape(3, 4, 4)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, 2] = True
    cut = cut_out(image, Detection("x", 1.0, (0.3, 0.25, 0.9, 0.5), mask=mask))
    assert cut.shape == (3, 1, 3)
    assert cut[0, 0].tolist() == pytest.approx([0.2, 6.0, 0.2])  # 153 of 255
    # A box without area on the border is a pixel.
    assert cut_out(image, Detection("x", 1.0, (1.0, 1.0, 1.0, 1.0))).tolist() == [
        [[15.0]], [[31.0]], [[47.0]],
    ]  # fmt: skip


def test_bad_folders_and_options_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no prompt folders; expected .*00000"):
        read_folder(tmp_path)
    scenes_folder(tmp_path / "real", Scenes("test", images=1), 1)
    (tmp_path / "real" / "00000" / "samples" / "0000.png").unlink()
    with pytest.raises(DataError, match="samples: no images"):
        read_folder(tmp_path / "real")
    with pytest.raises(UserError, match="--rule up: expected one of geneval"):
        command.main(["--images-from", str(tmp_path), "--rule", "up"])
    # Both before the detector's weights are asked for.
    with pytest.raises(UserError, match="gone: no such folder; draw one with --run and --prompts"):
        command.main(["--images-from", str(tmp_path / "gone")])
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        arguments = ["--run", str(tmp_path), "--prompts", str(tmp_path / "none.jsonl")]
        command.main(["--images-from", str(tmp_path / "new"), *arguments])
    with pytest.raises(UserError, match="belong together"):
        command.main(["--images-from", str(tmp_path), "--run", str(tmp_path)])
