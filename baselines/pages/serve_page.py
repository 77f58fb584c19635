"""The page of `baselines.serve`: gradio's parts, and which of ours fills which of them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from baselines.errors import UserError
from baselines.pages import serve_html as html
from baselines.pages.rendering import TEMPLATES
from baselines.sampling.studio import MAX_LETTERS, MAX_SAMPLES, Prompt, Studio

logger = logging.getLogger(__name__)

STYLE = TEMPLATES / "serve.css"
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "drawing"}
# Whoever clicks on before the answer is there wants the answer to the last click.
AT_LAST = ONE_AT_A_TIME | {"trigger_mode": "always_last", "show_progress": "minimal"}
# Fonts of the reader's own machine: none is fetched.
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")


def build(studio: Studio, examples: Sequence[str]) -> gr.Blocks:
    """The page; without `examples` it starts empty."""
    with gr.Blocks(title=html.TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(html.heading(studio), elem_id="heading")
        drawn = gr.State(Prompt(""))
        with gr.Row(equal_height=True):
            text = gr.Textbox(
                value=examples[0] if examples else "", label="Caption", max_length=MAX_LETTERS,
                placeholder="what the picture shows", elem_id="caption", scale=6, autofocus=True,
            )  # fmt: skip
            seed = gr.Number(value=0, label="Seed", precision=0, elem_id="seed", min_width=90)
            samples = gr.Slider(
                1, MAX_SAMPLES, value=4, step=1, label="Samples", elem_id="samples", scale=2
            )
            button = gr.Button("Draw", variant="primary", elem_id="draw", min_width=90)
        if examples:
            label = "Captions that the first run was not trained on"
            chosen = gr.Dataset(
                components=[text], samples=[[e] for e in examples], label=label, elem_id="examples"
            )
        message = gr.HTML(elem_id="message")
        pictures = gr.HTML(elem_id="pictures")
        with gr.Group(elem_id="questions", visible=False) as questions:
            word = gr.Radio([], label="Click a word", elem_id="words", type="value")
            with gr.Row(equal_height=True):
                sample = gr.Radio([], label="in sample", elem_id="sample", scale=2)
                by = gr.Textbox(label="Replace it by", elem_id="by", scale=3)
                replace = gr.Button("Replace", elem_id="replace", min_width=90)
        placed = gr.HTML(elem_id="places")
        edited = gr.HTML(elem_id="edits")

        answers = _Answers(studio)
        results = [drawn, message, pictures, questions, word, sample, placed, edited]
        asked = [text, seed, samples]
        question = [drawn, sample, word]
        on = functools.partial(gr.on, **AT_LAST)
        on([button.click, text.submit], answers.draw, asked, results, api_name="draw")
        on([word.input, sample.input], answers.place, question, [message, placed], api_name="place")
        on([replace.click, by.submit], answers.edit, [*question, by], [message, edited],
           api_name="edit")  # fmt: skip
        if examples:
            copied = chosen.click(lambda row: row[0], chosen, text, api_name=False)
            copied.then(answers.draw, asked, results, api_name=False, **ONE_AT_A_TIME)
            page.load(answers.draw, asked, results, api_name=False, **ONE_AT_A_TIME)
    return page


class _Answers:
    """What the page shows after each click; an error is one line in it, never a traceback."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def draw(self, text: str, seed: float | None, samples: float) -> list[Any]:
        """The pictures, and the questions that can be asked about them."""

        def answer() -> list[Any]:
            prompt = Prompt(" ".join(text.split()), int(seed or 0), int(samples))
            pictures = html.drawings(self.studio, prompt)
            words = self.studio.words(prompt.text)
            number = self.studio.clearest_word(prompt)
            marked = [f"{w.text} (unknown)" if w.unknown_to else w.text for w in words]
            return [
                prompt,
                pictures,
                gr.update(visible=True),
                gr.update(choices=[(name, n) for n, name in enumerate(marked)], value=number),
                gr.update(
                    choices=[(str(n + 1), n) for n in range(prompt.samples)],
                    value=0,
                    visible=prompt.samples > 1,
                ),
                self._places(prompt, 0, number),
                "",
            ]

        drawn, message, *rest = _told(answer, 7, at=1)
        return [drawn, message, *rest]

    def place(self, prompt: Prompt, sample: int, number: int) -> list[Any]:
        """Where a word goes."""
        return _told(lambda: [html.places(self.studio, *self._asked(prompt, sample, number))], 1)

    def edit(self, prompt: Prompt, sample: int, number: int, by: str) -> list[Any]:
        """What moves when a word is replaced."""
        return _told(lambda: [html.edits(self.studio, *self._asked(prompt, sample, number), by)], 1)

    def _asked(
        self, prompt: Prompt, sample: int | None, number: int | None
    ) -> tuple[Prompt, int, int]:
        """The question, if it is one about what is drawn now."""
        if not prompt.text or sample is None or number is None:
            raise UserError("nothing is drawn yet: type a caption and press Draw")
        if sample >= prompt.samples or number >= len(self.studio.words(prompt.text)):
            raise UserError("something else has been drawn since: click again")
        return prompt, sample, number

    def _places(self, prompt: Prompt, sample: int, number: int) -> str:
        """Of a new drawing; that no run tells is a note there, not an error."""
        try:
            return html.places(self.studio, prompt, sample, number)
        except UserError as error:
            return html.problem(error)


def _told(answer: Callable[[], list[Any]], count: int, at: int = 0) -> list[Any]:
    """What `answer` says, with an empty message at `at`; or its error there and nothing new."""
    try:
        said, message = answer(), ""
    except UserError as error:
        said, message = [gr.skip()] * count, html.problem(error)
    except Exception as error:
        logger.exception("a question of the page could not be answered")
        name = type(error).__name__
        said = [gr.skip()] * count
        message = html.problem(f"{name}: a bug of ours; the terminal shows where it happened")
    return [*said[:at], message, *said[at:]]
