"""A headless Chromium, spoken to through two pipes in its own protocol of JSON messages."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60  # that a page may take, on a busy machine
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# runs a program with these two pipes as its files 3 and 4, which it reads and writes
_REDIRECT = """
import fcntl, os, sys
there, back = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]]
os.dup2(there, 3)
os.dup2(back, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser():
    """Path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab of a browser; `events` are the messages that nobody asked for."""

    def __init__(self, path):
        self.events = []
        self._n_calls = 0
        self._rest = b""
        self._folder = tempfile.mkdtemp()
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        arguments = [path, *_FLAGS, f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _REDIRECT, str(there), str(back), *arguments],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        self._session = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method, **params):
        """Result of a method of the protocol."""
        self._n_calls += 1
        message = {"id": self._n_calls, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._wait(lambda answer: answer.get("id") == message["id"])["result"]

    def open(self, path, width):
        """Open a file in a window of this width, in pixels, and wait until it is loaded."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._wait(lambda event: event.get("method") == "Page.loadEventFired")

    def evaluate(self, expression):
        """Value of an expression of JavaScript; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_until(self, expression):
        """Wait for an expression to be true."""
        end = time.monotonic() + SECONDS
        while not self.evaluate(expression):
            assert self.complaints == []
            assert time.monotonic() < end, f"not true in {SECONDS} s: {expression}"
            time.sleep(0.1)

    def take_screenshot(self):
        """The whole page, below the window's edge as well, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    @property
    def complaints(self):
        """What the console said of errors and warnings."""
        found = [
            event["params"]["entry"]["text"]
            for event in self.events
            if event.get("method") == "Log.entryAdded"
        ]
        found += [
            str(event["params"])
            for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
            or (
                event.get("method") == "Runtime.consoleAPICalled"
                and event["params"]["type"] in ("error", "warning", "assert")
            )
        ]
        return found

    @property
    def requests(self):
        """Addresses asked for, but for what lies inside the page."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def _wait(self, is_wanted):
        while True:
            message = self._receive()
            if is_wanted(message):
                assert "error" not in message, message
                return message
            if "id" not in message:
                self.events.append(message)

    def _receive(self):
        while b"\0" not in self._rest:
            part = os.read(self._read, 2**20)
            assert part, "the browser ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
