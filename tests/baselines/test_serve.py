"""The page as people meet it: the command, the server and a real browser."""

import base64
import importlib.util
import io
import os
import socket
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import baselines
from baselines import serve
from baselines.cli import run_command
from baselines.data import open_source
from baselines.sampling.studio import Prompt, Studio
from tests.support.browser import needs_browser
from tests.support.devtools import chromium
from tests.support.tiny_run import make_tiny_run

# Of pandas, which gradio calls.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")
LOCAL = ("127.0.0.1", "localhost")
TEXT = "a large green star"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_tiny_run(folder / "words"), make_tiny_run(folder / "flat", stages=1)]


@pytest.fixture
def addresses(monkeypatch):
    """Every host that this process looks up or connects to."""
    asked = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connecting(self, address):
        asked.append(address[0] if isinstance(address, tuple) else "local")
        return connect(self, address)

    def looking_up(host, *arguments, **options):
        asked.append(host)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", connecting)
    monkeypatch.setattr(socket, "getaddrinfo", looking_up)
    return asked


@pytest.fixture
def served(runs, addresses):
    """Two runs on a free port; gives the studio and the address."""
    pytest.importorskip("gradio", reason="needs gradio (the extra web)")
    with mock.patch.dict(os.environ):
        studio = serve.open_runs(runs, "cpu")
        page, address = serve.start(studio, serve.LOOPBACK, serve.free_port(serve.LOOPBACK, 0))
        assert page.server.config.host == "127.0.0.1" and page.share_url is None
        yield studio, address
        page.close(verbose=False)


def seen(tab, place):
    """The pixels of all pictures of a part of the page."""
    sources = tab.evaluate(f"[...document.querySelectorAll('{place} img')].map(i => i.src)")
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        for source in sources
    ]


def says(place, text):
    return f"(document.querySelector('{place}') || {{}}).innerText == {text!r}"


def contrast(tab):
    """Of the title with the page, as WCAG defines it."""
    colours = tab.evaluate(
        "[getComputedStyle(document.querySelector('h1')).color, "
        "getComputedStyle(document.body).backgroundColor]"
    )
    light = []
    for colour in colours:
        channels = [int(c) / 255 for c in colour[4:-1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        light.append(np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05)
    return light[0] / light[1]


@needs_browser
def test_a_caption_is_typed_a_word_clicked_and_replaced(served, addresses, tmp_path):
    studio, address = served
    pipelines = studio.pipelines
    with chromium(tmp_path / "profile") as tab:
        tab.open(address)
        first = open_source(pipelines["words"].run.config.data, "test").captions(0)[0]
        tab.wait(says("#pictures h2", first))
        tab.wait("document.querySelectorAll('#places img').length")
        assert contrast(tab) < 1 / 4.5, "dark on light"

        tab.click("#examples button:nth-child(2)")
        tab.wait(says("#pictures h2", serve.examples(studio)[1]))

        tab.type("#seed input", "7")
        tab.type("#caption textarea, #caption input", TEXT)
        tab.click("#draw")
        tab.wait(says("#pictures h2", TEXT))
        drawn = [np.asarray(p) for n in pipelines for p in pipelines[n](TEXT, seed=7, samples=4)]
        shown = seen(tab, "#pictures")
        assert len(shown) == len(drawn) == 8
        for large, small in zip(shown, drawn, strict=True):
            enlarged = np.asarray(Image.fromarray(small).resize((256, 256), Image.BICUBIC))
            assert np.abs(large.astype(int) - enlarged).max() <= 2

        tab.click("#sample label:nth-child(3)")
        tab.click("#words label:nth-child(2)")
        tab.wait(says("#places h2", "Where large goes"))
        (overlay,) = studio.overlays("words", Prompt(TEXT, 7, 4), 2, 1)
        tab.wait("document.querySelectorAll('#places img').length == 2")
        assert np.array_equal(seen(tab, "#places")[1], np.asarray(overlay.picture))

        tab.type("#by textarea, #by input", "small")
        tab.click("#replace")
        tab.wait(says("#edits h2", "a large small green star"))
        before, after, change, *_ = seen(tab, "#edits")
        assert np.array_equal(before, shown[2])
        assert not change[(before == after).all(2)].any() and change.any()

        tab.type("#caption textarea, #caption input", "zorgle <b>")
        tab.click("#draw")
        tab.wait(
            says("#message .problem", "no word of 'zorgle <b>' is in the vocabulary of this run")
        )
        assert len(seen(tab, "#pictures")) == 8, "what was drawn before is still there"

        tab.open(address, dark=True)
        tab.wait("document.querySelectorAll('#places img').length")
        assert contrast(tab) > 4.5, "light on dark"
        assert tab.complaints == []
        fetched = [a for a in tab.requests if not a.startswith(("data:", "blob:", "about:"))]
        assert fetched and all(a.startswith(address) for a in fetched), fetched
    assert addresses and set(addresses) <= {*LOCAL, "local"}, "asked others"


def test_a_bug_is_one_line_on_the_page_and_a_traceback_in_the_terminal(runs, caplog, monkeypatch):
    pytest.importorskip("gradio", reason="needs gradio (the extra web)")
    from baselines.pages import serve_page

    answers = serve_page._Answers(serve.open_runs(runs, "cpu"))
    message, *_ = answers.place(Prompt(""), None, None)
    assert "nothing is drawn yet" in message and "Traceback" not in caplog.text
    message, *_ = answers.place(Prompt("a star"), 0, 2)
    assert "something else has been drawn since" in message

    def broken(*arguments):
        raise RuntimeError("shapes\ndo not fit")

    monkeypatch.setattr(serve_page.html, "places", broken)
    message, *_ = answers.place(Prompt(TEXT), 0, 0)
    assert "RuntimeError: a bug of ours" in message and "\n" not in message
    assert "do not fit" in caplog.text


def test_examples_are_held_out_captions_and_none_without_the_data(runs):
    loaded = baselines.load(runs[0], device="cpu")
    source = open_source(loaded.run.config.data, "test")
    texts = serve.examples(Studio({"a": loaded}))
    assert texts == [source.captions(3 * place)[0] for place in range(8)]  # 8 of 24 images
    with mock.patch("baselines.sampling.held_out.open_source", side_effect=FileNotFoundError):
        assert serve.examples(Studio({"a": loaded})) == []


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda argv: serve.main([str(argument) for argument in arguments]))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


class TestRefusing:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch):
        """As if gradio were there: none of this comes so far as to need it."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def test_what_is_no_run(self, tmp_path, capsys):
        assert "not a run directory" in refused([tmp_path, "--port", 0], capsys)

    def test_a_run_given_twice(self, runs, capsys):
        assert "given twice" in refused([runs[0], runs[0], "--port", 0], capsys)

    def test_a_port_that_is_taken_or_none(self, runs, capsys):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            line = refused([runs[0], "--port", port], capsys)
        assert f"cannot listen on 127.0.0.1, port {port}" in line and "--port" in line
        assert "cannot listen on" in refused([runs[0], "--port", 70000], capsys)

    def test_a_missing_gradio(self, runs, capsys, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert refused([runs[0]], capsys).endswith("pip install -e '.[web]'")
