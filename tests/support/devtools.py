"""A real browser without a window, driven over a pipe by the DevTools protocol."""

import base64
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.browser import CHROMIUM, FLAGS

PATIENCE = 120  # seconds, for a machine that is busy with other things
# The browser reads from file 3 and writes to file 4.
PIPES = """
import os, sys
for number, target in zip(map(int, sys.argv[1:3]), (13, 14)):
    os.dup2(number, target)
os.dup2(13, 3), os.dup2(14, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One tab; `requests` are the addresses it has asked for, `complaints` what it logged."""

    def __init__(self, to_browser: int, from_browser: BinaryIO) -> None:
        self._to, self._from = to_browser, from_browser
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network"):
            self._send(f"{domain}.enable", session=True)

    def _send(self, method: str, session: bool = False, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        answer: dict[str, Any] = json.loads(content)
        if answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(answer["params"]["request"]["url"])
        if answer.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(answer["params"]["exceptionDetails"])[:500])
        return answer

    def open(self, address: str, *, width: int = 1240, height: int = 900, dark: bool = False):
        """Go to an address."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", session=True, features=scheme)
        self._send(
            "Emulation.setDeviceMetricsOverride", session=True,
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self._send("Page.navigate", session=True, url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self._send(
            "Runtime.evaluate", session=True, expression=expression, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + PATIENCE
        while (value := self.evaluate(expression)) in (None, False, 0, ""):
            shown = self.evaluate("document.body && document.body.innerText")
            assert time.monotonic() < end, f"still not: {expression}; the page says:\n{shown}"
            time.sleep(0.1)
        return value

    def click(self, selector: str) -> None:
        """Click where the middle of an element is."""
        where = self.wait(
            f"(e => e && (e.scrollIntoView({{block: 'center'}}), e = e.getBoundingClientRect(), "
            f"e.width && [e.x + e.width / 2, e.y + e.height / 2]))"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._send(
                "Input.dispatchMouseEvent", session=True,
                type=kind, x=where[0], y=where[1], button="left", clickCount=1,
            )  # fmt: skip

    def type(self, selector: str, text: str) -> None:
        """Replace what stands in a field, as by hand."""
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self._send("Input.insertText", session=True, text=text)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as a PNG."""
        shot = self._send("Page.captureScreenshot", session=True, captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """The browser with an empty profile; for tests marked `needs_browser`."""
    assert CHROMIUM is not None
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()
    command = [sys.executable, "-c", PIPES, str(read_commands), str(write_answers), CHROMIUM]
    process = subprocess.Popen(
        [*command, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        with os.fdopen(read_answers, "rb") as answers:
            yield Page(write_commands, answers)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(write_commands)
