"""Look at runs in a browser: `python -m baselines.serve RUN [RUN ...]`.

Type a caption and see what every run draws from the same noise; click a word to see where the
model puts it at every stage; replace it and see what moves. The page listens on this machine
alone unless `--host` says otherwise, and asks nothing of any other.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.cli import Parser, run_command
from baselines.errors import UserError

# --help does not wait for torch or gradio: what needs them is imported where it is used.
if TYPE_CHECKING:
    from gradio import Blocks

    from baselines.sampling.studio import Studio

EXAMPLES = 8
LOOPBACK = "127.0.0.1"
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_NUM_WORKERS": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="python -m baselines.serve",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run directories, or converted originals")
    add("--port", type=int, default=7860, help="0 takes any that is free; default: 7860")
    add(
        "--host", default=LOOPBACK,
        help="address to listen on; 0.0.0.0 lets everybody in your network draw; default: loopback",
    )  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    options = build_parser().parse_args(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install -e '.[web]'")
    port = free_port(options.host, options.port)
    studio = open_runs(options.runs, options.device)
    page, address = start(studio, options.host, port)
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def free_port(host: str, port: int) -> int:
    """`port`, or one that is free if it is 0.

    Raises:
        UserError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            return trial.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host}, port {port} ({error}): choose others with --host and --port"
        ) from None


def open_runs(paths: Sequence[Path], device: str) -> Studio:
    """Load runs to draw side by side.

    Raises:
        UserError: a run is given twice.
        CheckpointError: a directory is no run, or a file of it is missing or damaged.
    """
    from baselines.metrics.comparison import names_of
    from baselines.sampling.pipeline import load
    from baselines.sampling.studio import Studio

    names = names_of(paths)
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise UserError(f"{twice[0]}: given twice; every run once")
    return Studio({n: load(path, device=device) for n, path in zip(names, paths, strict=True)})


def examples(studio: Studio) -> list[str]:
    """Captions of the first run's test split; none where its data set is not at hand."""
    from baselines.data import DataError
    from baselines.sampling.held_out import held_out

    first, *_ = studio.pipelines.values()
    try:
        return [pair.caption.text for pair in held_out(first, EXAMPLES)]
    except DataError:
        return []


def start(studio: Studio, host: str, port: int) -> tuple[Blocks, str]:
    """Start the server in threads of its own; returns what closes it and its address."""
    os.environ.update(QUIET)
    # A server asks itself whether it is up; that must not go through anybody's proxy.
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, (known, host, LOOPBACK, "localhost")))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    import gradio

    from baselines.pages.serve_page import FONTS, ONE_AT_A_TIME, STYLE, build

    page = build(studio, examples(studio))
    page.queue(default_concurrency_limit=ONE_AT_A_TIME["concurrency_limit"])
    theme = gradio.themes.Base(
        primary_hue="orange", neutral_hue="slate", font=FONTS, font_mono=("ui-monospace",)
    )
    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host, server_port=port, share=False,
        quiet=True, prevent_thread_lock=True, footer_links=[], run_history=False,
        enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, theme=theme,
        css_paths=[STYLE],
    )  # fmt: skip
    return page, address


if __name__ == "__main__":
    run_command(main)
