"""A scan finds everything that is broken, in one go, and nothing that is not."""

import math

import pytest
import torch

from baselines.data.files import FileSource, Record, box_fault
from baselines.data.images import open_rgb
from baselines.data.scan import BrokenDataError, FilteredSource, scan
from baselines.data.scenes import Scenes
from baselines.data.source import DataError, Problem, Source
from baselines.data.vocabulary import Vocabulary, VocabularyMismatchError
from tests.baselines.data.makers import Toy, write_image


def record(tmp_path, name, captions=("a bird",), box=None, **options):
    path = tmp_path / f"{name}.jpg"
    return Record(path, name, tuple(captions), 0, box, **options)


@pytest.fixture
def broken(tmp_path):
    """Eleven images of which only `good` and `nearly` can be used, and those not with all."""
    for name in ("good", "cut", "text", "box", "nan", "silent", "blank", "nearly", "again"):
        write_image(tmp_path / f"{name}.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-200])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    noted = Problem("unreadable captions", "silent", "not UTF-8")
    return FileSource(
        "toy",
        "train",
        [
            record(tmp_path, "good", ["a red bird", "", "birds"]),
            record(tmp_path, "cut"),
            record(tmp_path, "empty"),
            record(tmp_path, "text"),
            record(tmp_path, "gone"),
            record(tmp_path, "box", box=(100.0, 5.0, 20.0, 20.0)),
            record(tmp_path, "nan", box=(1.0, math.nan, 20.0, 20.0)),
            record(tmp_path, "silent", [], problems=(noted,)),
            record(tmp_path, "blank", ["  ", "?!"]),
            record(tmp_path, "nearly", ["\u65e5\u672c", "a bird"], box=(-2.0, 0.0, 20.0, 33.0)),
            record(tmp_path, "good"),
        ],
        ["a note"],
    )


def test_a_name_with_line_breaks_stays_on_its_line(tmp_path):
    source = FileSource("toy", "train", [record(tmp_path, "a\nb\x1b[2J")])
    details = scan(source, progress=False).details().splitlines()
    assert len(details) == 2 and "a\\x0ab\\x1b[2J" in details[1]


def test_everything_is_found_at_once(broken):
    report = scan(broken, progress=False)
    found = {
        (broken.key(index), problem.kind, problem.caption) for index, problem in report.problems
    }
    assert found == {
        ("good", "empty caption", 1),
        ("cut", "broken image", None),
        ("empty", "broken image", None),
        ("text", "broken image", None),
        ("gone", "missing image", None),
        ("box", "bad box", None),
        ("nan", "bad box", None),
        ("silent", "unreadable captions", None),
        ("blank", "empty caption", 0),
        ("blank", "caption without words", 1),
        ("nearly", "caption without words", 0),
        ("good", "duplicate name", None),
    }
    assert report.counts["broken image"] == 3 and report.counts["bad box"] == 2
    assert report.captions == 10
    assert not report.ok


def test_refusal_names_everything_and_the_way_out(broken):
    with pytest.raises(BrokenDataError) as caught:
        scan(broken, progress=False).raise_if_broken()
    message = str(caught.value)
    assert message.startswith("toy train: 12 problems with 11 of 11 images")
    for words in (
        "broken image (3):",
        "cut.jpg: image file is truncated",
        "empty.jpg: the file is empty",
        "gone.jpg",
        "box (100, 5, 20, 20) in an image of 40×30: 100% of it lies outside",
        "not finite",
        "caption 2, '?!', has no word",
        "--skip-broken (data.skip_broken=true)",
    ):
        assert words in message, words


def test_skipping_keeps_what_is_usable(broken, caplog):
    source = scan(broken, progress=False).skip()
    assert isinstance(source, Source)
    assert [source.key(index) for index in range(len(source))] == ["good", "nearly"]
    assert source.captions(0) == ("a red bird", "birds")
    assert source.captions(1) == ("a bird",)
    assert (source.name, source.split, source.class_id(1)) == ("toy", "train", 0)
    assert source.image(1, 16).shape == (3, 16, 16)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(
        source.image(1, 16, rng=generators[0]), broken.image(9, 16, rng=generators[1])
    )
    assert scan(source, progress=False).ok
    assert "2 of 11 images stay, 2 captions left out" in caplog.text
    assert "missing image (1):" in caplog.text


def test_nothing_left_is_an_error(tmp_path):
    source = FileSource("toy", "train", [record(tmp_path, "gone")])
    with pytest.raises(BrokenDataError, match=r"every image is broken\nmissing image \(1\)"):
        scan(source, progress=False).skip()


def test_sound_data_pass_unchanged(tmp_path):
    write_image(tmp_path / "good.jpg")
    source = FileSource("toy", "train", [record(tmp_path, "good", box=(0.0, 0.0, 40.0, 30.0))])
    report = scan(source, progress=False)
    report.raise_if_broken()
    assert report.ok and report.skip() is source


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_scan_agrees_with_the_decoder_on_every_truncation(tmp_path, suffix):
    content = write_image(tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    source = FileSource("toy", "train", [Record(path, "cut", ("a",), 0)])
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        try:
            open_rgb(path)
            decodes = True
        except Exception:
            decodes = False
        assert (not source.verify(0)) == decodes, length


def test_broken_image_is_named_while_training(tmp_path):
    source = FileSource("toy", "train", [record(tmp_path, "gone")])
    with pytest.raises(DataError, match=r"gone\.jpg cannot be read .*--skip-broken"):
        source.image(0, 16)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((0, 0, 40, 30), ""),
        ((-5, -5, 30, 30), ""),
        ((20, 10, 30, 20), ""),
        ((-20, 0, 30, 10), "67% of it lies outside"),
        ((0, 30, 10, 10), "100% of it lies outside"),
        ((-50, -50, 10, 10), "100% of it lies outside"),
        ((5, 5, 0, 10), "must be positive"),
        ((5, 5, 10, -1), "must be positive"),
        ((math.inf, 5, 10, 10), "not finite"),
        ((5, 5, 10, math.nan), "not finite"),
    ],
)
def test_box_faults(box, fault):
    message = box_fault(box, 40, 30)
    assert fault in message if fault else message == ""


def test_long_reports_are_cut_in_errors_and_whole_on_disk(tmp_path):
    source = FileSource("toy", "train", [record(tmp_path, f"gone{n}") for n in range(70)])
    report = scan(source, progress=False)
    with pytest.raises(BrokenDataError, match=r"… and 20 more"):
        report.raise_if_broken()
    report.write(tmp_path / "scan.txt")
    text = (tmp_path / "scan.txt").read_text(encoding="utf-8")
    assert text.count("gone69.jpg") == 1 and "more" not in text


def test_unknown_words_are_counted_not_refused(broken):
    report = scan(broken, Vocabulary(["bird", "a"]), progress=False)
    assert report.unknown == {"red": 1, "birds": 1}
    assert "2 words (2 occurrences) are not in the vocabulary: red, birds" in report.summary()
    assert report.summary().splitlines()[1] == "  a note"


@pytest.mark.parametrize("workers", [1, 4])
def test_order_does_not_depend_on_threads(broken, workers):
    assert scan(broken, workers=workers, progress=False).problems == scan(broken).problems


def test_sources_without_files_have_their_captions_checked():
    report = scan(Toy(300), progress=False)
    assert [(index, problem.kind) for index, problem in report.problems] == [
        (0, "caption without words")
    ]
    assert report.skip().captions(0) == (Toy().captions(0)[0], "two words")


def test_bar_is_drawn_unless_there_is_no_terminal(broken, capfd):
    scan(broken)
    assert "scanning" not in capfd.readouterr().err


def test_what_stays_keeps_what_is_known_of_it():
    scenes = Scenes("test", images=5, max_objects=2)
    kept = FilteredSource(scenes, [1, 4], {4: {0, 2}})
    facts, whole = kept.scene_facts(1), scenes.scene_facts(4)
    assert facts.boxes == whole.boxes
    assert [caption.text for caption in facts.captions] == list(kept.captions(1))
    assert facts.captions == (whole.captions[1], *whole.captions[3:])
    assert list(kept.vocabulary_captions()) == list(scenes.vocabulary_captions())
    assert kept.scanned == [0, 1] and kept.notes == scenes.notes
    assert FilteredSource(Toy(), [2], {}).scene_facts(0) is None


def test_lost_letters_are_counted_and_reported(tmp_path):
    write_image(tmp_path / "a.jpg")
    captions = ["ein schöner Vogel", "schöner Schnabel", "grün und schöner", "plain"]
    for tokens, expected in (("ascii", 2), ("unicode", 0)):
        records = [record(tmp_path, "a", captions)]
        report = scan(FileSource("toy", "train", records, tokens=tokens), progress=False)
        assert (len(report.lost), report.words) == (expected, 9)
        said = "2 words (4 occurrences) lose letters outside ASCII: 'schöner' → 'schner', 'grün'"
        assert (said in report.summary()) == (tokens == "ascii")
    german = Vocabulary.build(captions, tokens="unicode")
    source = FileSource("toy", "train", [record(tmp_path, "a", captions)])
    assert not scan(source, german, progress=False).lost


def test_a_vocabulary_of_other_captions_is_refused_above_a_share(broken):
    report = scan(broken, Vocabulary(["bird", "a"]), progress=False)
    assert report.unknown_share == pytest.approx(2 / 20)
    report.require_known_words(0.1)
    with pytest.raises(VocabularyMismatchError, match=r"10% of the words .*toy train.*red, birds"):
        report.require_known_words(0.05)
    assert scan(Toy(), progress=False).unknown_share == 0
