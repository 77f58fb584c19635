import json
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from baselines import evaluate
from baselines.config import load_config, save_config
from baselines.data.cub import Cub
from baselines.data.folder import Folder
from baselines.data.scan import FilteredSource
from baselines.metrics.boxes import evaluated_box
from baselines.metrics.images import ImageBatch
from baselines.metrics.pairs import read_pairs
from baselines.metrics.pointing import PointingMetric
from baselines.metrics.record import load_entries
from baselines.metrics.spec import EvaluationContext, ImageSet
from baselines.runs import CONFIG
from tests.support.paths import require, shared
from tests.support.tiny_run import make_tiny_run

BOXES = [(30, 20, 60, 40), (0, 0, 25, 50), (70, 10, 30, 30), (5, 40, 90, 55), (40, 40, 12, 50)]


@pytest.fixture
def boxed(tmp_path):
    """Black images with one white box, which is their annotation."""
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    rows = []
    for number, (x, y, width, height) in enumerate(BOXES):
        image = Image.new("RGB", (120, 100))
        ImageDraw.Draw(image).rectangle((x, y, x + width - 1, y + height - 1), fill="white")
        image.save(tmp_path / "test" / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": "a bird", "bbox": [x, y, width, height]})
    for split in ("train", "test"):
        text = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / split / "metadata.jsonl").write_text(text)
    return Folder(tmp_path, "test")


@pytest.mark.parametrize("size", [64, 256])
def test_a_box_is_where_its_pixels_are_after_crop_and_resize(boxed, size):
    for index in range(len(BOXES)):
        white = boxed.image(index, size).mean(dim=0) > 0
        rows, columns = white.any(dim=1).nonzero()[:, 0], white.any(dim=0).nonzero()[:, 0]
        found = evaluated_box(boxed, index, size)
        expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert [size * c for c in found] == pytest.approx([float(e) for e in expected], abs=2.5)


def test_what_is_left_out_hides_no_box_of_what_stays(boxed):
    some = FilteredSource(boxed, (3, 1), {})
    assert [evaluated_box(some, n, 64) for n in (0, 1)] == [
        evaluated_box(boxed, n, 64) for n in (3, 1)
    ]


def test_words_are_held_to_the_box_of_real_images_alone(boxed):
    pairs = read_pairs(boxed, None, 4)
    pairs.lengths.fill_(2)
    context = EvaluationContext(source=boxed, pairs=pairs, size=64, seed=0)
    layouts = torch.zeros(len(BOXES), 4, 64, 64)
    for index in range(len(BOXES)):
        left, top, right, bottom = evaluated_box(boxed, index, 64)
        layouts[index, 0, int(32 * (top + bottom)), int(32 * (left + right))] = 1.0
        layouts[index, 1, 0, 0] = 1.0
    for real, expected in ((True, 0.5), (False, None)):
        metric = PointingMetric(context, ImageSet("x", len(BOXES), real=real))
        images = torch.zeros(len(BOXES), 3, 64, 64)
        metric.update(ImageBatch(torch.arange(len(BOXES)), images, layouts={"stage1": layouts}))
        scores = metric.scores()
        if expected is None:
            assert scores == {}
        else:
            assert scores["pointing/stage1"].value == pytest.approx(expected, abs=0.11)


def test_boxes_of_cub_lie_in_its_evaluated_images():
    source = Cub(require(shared("data", "cub")), "test")
    for index in range(min(10, len(source))):
        left, top, right, bottom = evaluated_box(source, index, 64)
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        # The crop is made around the box, so that it holds the middle.
        assert left < 0.5 < right and top < 0.5 < bottom


def test_layouts_are_measured_on_cub_for_a_host_without_layout_encoders(tmp_path):
    root = require(shared("data", "cub"))
    path = make_tiny_run(tmp_path / "run")
    config = load_config(path / CONFIG)
    data = replace(config.data, name="cub", root=str(root))
    save_config(replace(config, data=data), path / CONFIG)
    evaluate.main(
        ["--run", str(path), "--metrics", "pointing,agreement,fid", "--images", "6",
         "--device", "cpu"]
    )  # fmt: skip
    (entry,) = load_entries(path / "evaluation.json")
    game = entry["metrics"]["pointing/damsm"]
    # Where a drawn bird is nobody knows; of the real one the box is known.
    assert set(game) == {"real"} and 0 < game["real"]["value"] <= 1
    assert entry["metrics"]["pointing/blob"]["real"]["value"] > 0.5
    for kind in ("difference", "hard", "overlap"):
        score = entry["metrics"][f"agreement/damsm/{kind}"]["trained"]
        assert 0 <= score["value"] <= 1 and score["chance"] is not None
