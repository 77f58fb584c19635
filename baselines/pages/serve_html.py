"""What the page of `baselines.serve` shows, as HTML that works in light and dark.

Pictures are inside the HTML as PNGs, so that nothing is stored or fetched; whatever a user typed
is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from PIL import Image

from baselines.config import Config
from baselines.errors import UserError
from baselines.pages.embedded import embedded
from baselines.pictures.sheet import Word
from baselines.sampling.studio import Edit, Prompt, Studio, replaced
from baselines.sampling.variations import mark_changes, mark_unknown

TITLE = "Where does every word go?"
LEAD = (
    "From the same noise: what each run draws, where it puts a word, and what moves when the word "
    "is replaced."
)

SCALE = (
    "Difference: black where nothing changes, brightest where colours change by half of all they "
    "could."
)


def heading(studio: Studio) -> str:
    """The title, and the runs with what they are."""
    runs = "".join(
        f"<li><b>{escape(name)}</b> {escape(describe(pipeline.run.config))}</li>"
        for name, pipeline in studio.pipelines.items()
    )
    note = "" if studio.same_noise else "These runs take noise of different widths: each its own."
    return f'<h1>{TITLE}</h1><p>{LEAD}</p><ul class="runs">{runs}</ul>{_note(note)}'


def describe(config: Config) -> str:
    """A run in a few words: host, refinement, sizes, data.

    >>> describe(Config())
    'alrgan · 64, 128, 256 px · scenes'
    """
    host = " + ".join([config.model.name, *config.refine.names])
    sizes = ", ".join(map(str, config.model.image_sizes))
    return f"{host} · {sizes} px · {config.data.name}"


def problem(error: Exception | str) -> str:
    """An error as one line."""
    return f'<p class="problem" role="alert">{escape(" ".join(str(error).split()))}</p>'


def notes(studio: Studio, text: str) -> str:
    """The words of a caption that a run does not know or does not reach, a line each."""
    everyone = tuple(studio.pipelines)
    unknown: dict[tuple[str, ...], dict[str, None]] = {}
    for word in studio.words(text):
        if word.unknown_to:
            unknown.setdefault(word.unknown_to, {})[word.text] = None
    lines = []
    for names, words in unknown.items():
        whom = "" if names == everyone else f" to {', '.join(names)}"
        lines.append(f"unknown{whom}: {', '.join(words)}")
    lines += [
        f"cut by {name}, which reads no more words: {' '.join(cut)}"
        for name in everyone
        if (cut := studio.read(name, text).cut)
    ]
    return "".join(map(_note, lines))


def drawings(studio: Studio, prompt: Prompt) -> str:
    """The samples of every run under the caption.

    Raises:
        UserError: no run can draw it.
    """

    def row(name: str) -> str:
        numbered = enumerate(studio.pictures(name, prompt), start=1)
        several = prompt.samples > 1
        return "".join(
            _figure(picture, f"sample {number}" if several else "") for number, picture in numbered
        )

    first = next(iter(studio.pipelines))
    title = _marked(mark_unknown(studio.read(first, prompt.text)))
    rows = _rows(studio, row, columns=min(prompt.samples, 4))
    return f"<h2>{title}</h2>{rows}{notes(studio, prompt.text)}"


def places(studio: Studio, prompt: Prompt, sample: int, number: int) -> str:
    """Where every run puts a word of the caption, stage by stage, beside the picture.

    Raises:
        UserError: no run tells.
    """

    def row(name: str) -> str:
        picture = _figure(studio.pictures(name, prompt)[sample], "the picture")
        overlays = studio.overlays(name, prompt, sample, number)
        return picture + "".join(
            _figure(overlay.picture, f"stage {stage}, {overlay.regions}", overlay.numbers)
            for stage, overlay in enumerate(overlays, start=1)
        )

    word = studio.words(prompt.text)[number].text
    columns = max(pipeline.run.config.model.stages for pipeline in studio.pipelines.values())
    return f"<h2>Where <em>{escape(word)}</em> goes</h2>{_rows(studio, row, columns)}"


def edits(studio: Studio, prompt: Prompt, sample: int, number: int, by: str) -> str:
    """What moves in every run when a word is replaced: before, after and the difference.

    Raises:
        UserError: nothing is left of the caption, or no run can draw it.
    """
    done: dict[str, Edit] = {}
    problems: dict[str, UserError] = {}
    for name in studio.pipelines:
        try:
            done[name] = studio.edit(name, prompt, sample, number, by)
        except UserError as error:
            problems[name] = error

    def row(name: str) -> str:
        if name in problems:
            raise problems[name]
        edit = done[name]
        mean = f"mean {edit.mean:.1f} of 255"
        figures = [
            _figure(edit.before, "before"),
            _figure(edit.after, "after"),
            _figure(edit.difference, "difference", mean),
            *(_figure(overlay.picture, word, overlay.numbers) for word, overlay in edit.overlays),
        ]
        return "".join(figures)

    words = [word.text for word in studio.words(prompt.text)]
    changed = replaced(words, number, by)
    title = _marked(mark_changes(" ".join(words), changed))
    moved = any(edit.mean for edit in done.values())
    below = _note(SCALE if moved else "Nothing changes.")
    return f"<h2>{title}</h2>{_rows(studio, row, 3)}{notes(studio, changed)}{below}"


def _rows(studio: Studio, row: Callable[[str], str], columns: int) -> str:
    """A card for every run; what is wrong with one stands in its card.

    Raises:
        UserError: there is none without.
    """
    cards, failed = [], []
    for name in studio.pipelines:
        try:
            content = row(name)
        except UserError as error:
            failed.append(error)
            content = problem(error)
        label = f"<h3>{escape(name)}</h3>" if len(studio.pipelines) > 1 else ""
        strip = f'<div class="strip" style="--columns: {columns}">{content}</div>'
        cards.append(f"<section>{label}{strip}</section>")
    if len(failed) == len(cards):
        raise failed[0]
    return f'<div class="cards">{"".join(cards)}</div>'


def _figure(picture: Image.Image, label: str, numbers: str = "") -> str:
    together = numbers.replace(" %", "\u00a0%")
    below = "".join(f"<span>{escape(text)}</span>" for text in (label, together) if text)
    caption = f"<figcaption>{below}</figcaption>" if below else ""
    source = embedded(picture, exact=True)
    return f'<figure><img src="{source}" alt="{escape(label) or "drawn"}">{caption}</figure>'


def _marked(words: Sequence[Word]) -> str:
    """Words as they are marked on the sheets: struck out, new or plain."""
    tags = {"gone": "del", "new": "ins"}
    return " ".join(
        f"<{tag}>{escape(word.text)}</{tag}>" if (tag := tags.get(word.mark)) else escape(word.text)
        for word in words
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""
