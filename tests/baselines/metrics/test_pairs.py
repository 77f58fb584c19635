import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from baselines.data.folder import Folder
from baselines.data.scan import FilteredSource
from baselines.data.scenes import Scenes
from baselines.data.source import DataError
from baselines.data.vocabulary import Vocabulary
from baselines.data.webdataset import WebDataset
from baselines.metrics.pairs import fingerprint, read_pairs
from baselines.metrics.spec import EvaluationContext
from tests.baselines.data.test_webdataset import write_shard


@pytest.fixture
def folder(tmp_path):
    """Six images with a caption each."""
    path = tmp_path / "images" / "test"
    path.mkdir(parents=True)
    rows = [{"file_name": f"{n}.png", "text": f"image {n}"} for n in range(6)]
    for row in rows:
        Image.new("RGB", (40, 40)).save(path / row["file_name"])
    (path.parent / "train").mkdir()
    for split in ("train", "test"):
        text = "\n".join(map(json.dumps, rows))
        (path.parent / split / "metadata.jsonl").write_text(text)
    return path


@pytest.mark.parametrize("kind", ["files left out", "shards"])
def test_an_exchanged_image_changes_the_fingerprint_of_any_source(folder, tmp_path, kind):
    """Of the same name and caption, wherever it lies."""

    def content(level):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), (level, 0, 0)).save(buffer, format="png")
        return buffer.getvalue()

    def found(level):
        if kind == "shards":
            write_shard(
                tmp_path / "test" / "0.tar", [("a", {"png": content(level), "txt": b"a bird"})]
            )
            return fingerprint(WebDataset(tmp_path, "test"), range(1))
        (folder / "3.png").write_bytes(content(level))
        return fingerprint(FilteredSource(Folder(folder.parent, "test"), (3, 5), {}), range(2))

    assert found(10) != found(20) != found(30)
    assert found(10) == found(10)


def test_an_image_that_cannot_be_read_is_named(folder):
    source = Folder(folder.parent, "test")
    (folder / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png cannot be read \(No such file"):
        fingerprint(source, range(6))


def test_scenes_that_are_filtered_are_still_scenes():
    scenes = Scenes("test", images=6, max_objects=2)
    pairs = read_pairs(scenes, Vocabulary.build(Scenes.vocabulary_captions()), 18)
    whole = EvaluationContext(source=scenes, pairs=pairs, size=32, seed=0)
    some = replace(whole, source=FilteredSource(scenes, (5, 4, 3, 2, 1, 0), {}))
    assert some.has_scenes and whole.has_scenes
    # The first pair of the turned-over source is of the last scene.
    assert some.stated(0) == (scenes.described(5)[0], scenes.scene(5).boxes)
