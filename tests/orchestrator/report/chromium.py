"""A headless Chromium that is spoken to over two pipes: the DevTools protocol without a port or a client library."""

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_TIMEOUT_S = 60.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Chromium:
    """One tab. `events` holds whatever the browser reported since the last `open`."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._unread, self._last_id = b"", 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events that arrive meanwhile are kept."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters} | self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path, *, width: int = 1400, height: int = 900, scheme: str = "light") -> None:
        """Load a file into a window of that size and wait until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while self.evaluate("document.readyState + ' ' + location.href") != f"complete {page.as_uri()}":
            self.events.append(self._read())  # at the latest the load event is still to come

    def seen(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of all such events since the last `open`."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; the page's own policy does not bind the debugger."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """Return the whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing for {ANSWER_TIMEOUT_S:.0f} s"
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium closed its pipe"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def chromium(executable: str, profile: Path) -> Iterator[Chromium]:
    """Run a browser with a fresh profile, and leave none behind."""
    their_commands, our_commands = _pipe()
    our_answers, their_answers = _pipe()
    # The browser reads file 3 and writes file 4; a shell puts our pipes there.
    place_pipes = f'exec "$@" 3<&{their_commands} 4>&{their_answers} {their_commands}<&- {their_answers}>&-'
    browser = subprocess.Popen(
        ["/bin/bash", "-c", place_pipes, "bash", executable, *_FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(their_commands, their_answers),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_commands)
    os.close(their_answers)
    try:
        tab = Chromium(our_commands, our_answers)
        yield tab
    finally:
        os.close(our_commands)  # the browser leaves when nobody can speak to it any more
        browser.terminate()
        browser.wait(timeout=ANSWER_TIMEOUT_S)
        os.close(our_answers)


def _pipe() -> tuple[int, int]:
    """Return a pipe whose ends are files 10 or above, so that moving one to 3 or 4 closes no other."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]
