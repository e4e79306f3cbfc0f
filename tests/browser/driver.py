"""A real Chromium without a window, driven over its DevTools pipe: pages as a user meets them.

Needs nothing but the browser.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LOCAL = ("127.0.0.1", "localhost")
WORDS = (
    "--headless=new",
    # it opens nothing but the project's own pages, and in containers there is often no sandbox to be had
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    # what asks for another machine fails, and is seen
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


def find() -> str | None:
    """The browser: CDKD_CHROMIUM, else the first of the usual names on PATH."""
    if named := os.environ.get("CDKD_CHROMIUM"):
        return named
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def chromium(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; it ends with the block, whatever happens in it."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    def as_three_and_four() -> (
        None
    ):  # where Chromium expects its pipe; by way of high numbers, so that neither closes the other
        high = [os.dup2(old, new) for old, new in ((theirs_in, 60), (theirs_out, 61))]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    words = [program, *WORDS, f"--user-data-dir={profile}", "about:blank"]
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    with (profile.parent / f"{profile.name}.log").open("wb") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(3, 4),
            preexec_fn=as_three_and_four,
            env=environment,
            start_new_session=True,
        )
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(ours_in, ours_out)
    try:
        yield browser
    finally:
        with contextlib.suppress(OSError, TimeoutError, BrowserError):
            browser.ask("Browser.close", patience=5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        os.close(ours_out)


class BrowserError(Exception):
    """The browser refused a command, or a script on the page failed."""


class Browser:
    """Messages of JSON, each ended by a zero byte; answers carry the number of their question, events the
    session of their page.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[Any]] = {}
        self._pages: dict[str, Page] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, method: str, session: str | None = None, patience: float = PATIENCE, **values: Any) -> Any:
        number = next(self._numbers)
        answer = self._answers[number] = queue.SimpleQueue()
        message = {"id": number, "method": method, "params": values} | (
            {"sessionId": session} if session else {}
        )
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        try:
            got = answer.get(timeout=patience)
        except queue.Empty:
            raise TimeoutError(f"{method}: no answer from the browser within {patience:g} s") from None
        finally:
            del self._answers[number]
        if "error" in got:
            raise BrowserError(f"{method}: {got['error'].get('message')}")
        return got["result"]

    def page(self, width: int = 1280, height: int = 900) -> Page:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(lambda method, **values: self.ask(method, session, **values))
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.ask(f"{domain}.enable")
        page.size(width, height)
        return page

    def _listen(self) -> None:
        with os.fdopen(self._reading, "rb") as pipe:
            rest = b""
            while part := pipe.read1(1 << 16):
                *whole, rest = (rest + part).split(b"\0")
                for text in whole:
                    self._sort(json.loads(text))
        for waiting in list(self._answers.values()):
            waiting.put({"error": {"message": "the browser has ended"}})

    def _sort(self, message: Mapping[str, Any]) -> None:
        if "id" in message:
            if waiting := self._answers.get(message["id"]):
                waiting.put(message)
        elif page := self._pages.get(message.get("sessionId", "")):
            page.note(message["method"], message["params"])


class Page:
    """One tab: opened, looked at, clicked; with what it asked of the network and what it complained of."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.ask = ask
        self.requests: list[str] = []
        self.complaints: list[str] = []  # uncaught exceptions, console.error, failed loads

    @property
    def outside(self) -> list[str]:
        """Requests that would leave this machine."""
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("file", "data", "blob", "about")
            and urlsplit(url).hostname not in LOCAL
        ]

    def note(self, method: str, event: Mapping[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            detail = event["exceptionDetails"]
            self.complaints.append(detail.get("exception", {}).get("description") or detail["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] == "error":
            self.complaints.append(
                " ".join(str(part.get("value", part.get("description", ""))) for part in event["args"])
            )
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.complaints.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression on the page; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(answer["exceptionDetails"].get("exception", {}).get("description", expression))
        return answer["result"].get("value")

    def wait(self, expression: str, patience: float = PATIENCE) -> Any:
        """The expression's value as soon as it is true."""
        end = time.monotonic() + patience
        while True:
            with contextlib.suppress(BrowserError):  # the page may be changing
                if value := self.js(f"(value => value instanceof Node ? true : value)({expression})"):
                    return value
            if time.monotonic() > end:
                text = self.js("document.body ? document.body.innerText.slice(0, 600) : ''")
                raise TimeoutError(f"{expression}: not true within {patience:g} s; the page says: {text!r}")
            time.sleep(0.1)

    def click(self, element: str, patience: float = PATIENCE) -> None:
        """Click with the mouse in the middle of what the expression finds, once it is there and has come to
        rest.
        """
        where = f"(() => {{ const e = {element}; if (!e) return null;"
        where += " e.scrollIntoView({block: 'center', inline: 'center'});"
        where += " const r = e.getBoundingClientRect();"
        where += " return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null })()"
        place = self.wait(where, patience)
        while True:  # what is clicked before makes pages move
            time.sleep(0.3)
            now = self.wait(where, patience)
            if now == place:
                break
            place = now
        x, y = place
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width: int, height: int = 900) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def theme(self, scheme: str) -> None:
        """light | dark, as the system's setting says it"""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path, whole: bool = False) -> None:
        picture = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))
