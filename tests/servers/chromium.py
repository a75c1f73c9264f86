"""A real browser, headless: the distribution's Chromium, driven over its DevTools protocol.

::

    async with Chromium.start(pins=[pin("localhost", port, context)]) as chromium:
        async with chromium.window() as window:      # cookies of its own, as another browser
            await window.open(url)
            await window.type("input[name=passwd]", "…")
            await window.press("#idSIButton9")
            await window.until("main[data-page=consent]")

It reaches loopback only: no proxy of the environment, no name but localhost, no service of its
vendor's. A certificate is trusted if it is one that the CA given really signed, by its key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

#: seconds until a test gives up; generous, since machines are shared
SECONDS = 60
_OPTIONS = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--password-store=basic",
    "--remote-debugging-port=0",
    "--use-mock-keychain",
)


class Chromium:
    """A running browser. ``start`` it."""

    def __init__(self, socket_: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket_
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    @classmethod
    @asynccontextmanager
    async def start(cls, *, pins: Sequence[str] = ()) -> AsyncIterator[Chromium]:
        """Start a browser that trusts the keys in ``pins`` (see ``pin``) beside what it knows."""
        binary = shutil.which("chromium")
        assert binary is not None, "chromium is missing; run scripts/servers.sh"
        with tempfile.TemporaryDirectory(prefix="mailbridge-", ignore_cleanup_errors=True) as home:
            process = await asyncio.create_subprocess_exec(
                binary,
                *_OPTIONS,
                *(["--no-sandbox"] if os.getuid() == 0 else []),
                f"--user-data-dir={home}",
                f"--ignore-certificate-errors-spki-list={','.join(pins)}",
                "about:blank",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8"},
            )
            try:
                address = await _address(Path(home) / "DevToolsActivePort", process)
                async with (
                    aiohttp.ClientSession(trust_env=False) as session,
                    session.ws_connect(address, max_msg_size=0) as socket_,
                ):
                    browser = cls(socket_)
                    reading = asyncio.create_task(browser._read())
                    try:
                        yield browser
                    finally:
                        reading.cancel()
                        await asyncio.gather(reading, return_exceptions=True)
            finally:
                # The session is its own: the browser and what it has started, nothing else.
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    @asynccontextmanager
    async def window(self, *, language: str = "en") -> AsyncIterator[Window]:
        """Open a window with cookies of its own, which are gone when the block ends."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        try:
            given = {"url": "about:blank", "browserContextId": context}
            target = (await self.call("Target.createTarget", given))["targetId"]
            given = {"targetId": target, "flatten": True}
            session = (await self.call("Target.attachToTarget", given))["sessionId"]
            window = Window(self, session)
            await window.call("Page.enable")
            await window.call("Network.enable")
            headers = {"headers": {"Accept-Language": language}}
            await window.call("Network.setExtraHTTPHeaders", headers)
            yield window
        finally:
            await self.call("Target.disposeBrowserContext", {"browserContextId": context})

    async def call(
        self, method: str, given: Mapping[str, Any] | None = None, *, session: str = ""
    ) -> dict[str, Any]:
        """Give a command of the protocol and return its result."""
        self._number += 1
        number = self._number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": dict(given or {})}
        await self._socket.send_json({**message, **({"sessionId": session} if session else {})})
        async with asyncio.timeout(SECONDS):
            said = await answer
        assert "error" not in said, f"{method}: {said.get('error')}"
        result: dict[str, Any] = said["result"]
        return result

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            waiting = self._answers.pop(said.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(said)


class Window:
    """One window of a browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    async def call(self, method: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Give a command of the protocol for this window."""
        return await self._browser.call(method, given, session=self._session)

    async def open(self, url: str) -> None:
        """Type in an address, and wait until something has come of it."""
        answer = await self.call("Page.navigate", {"url": url})
        assert not answer.get("errorText"), f"{url}: {answer['errorText']}"
        await self.until("body")

    async def evaluate(self, script: str) -> Any:
        """Run a script in the page, as the tools for developers do; the page's policy is no bar."""
        given = {"expression": script, "returnByValue": True, "userGesture": True}
        answer = await self.call("Runtime.evaluate", given)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def until(self, selector: str) -> None:
        """Wait until the page has loaded and has such an element."""
        script = f"document.readyState == 'complete' && !!document.querySelector({selector!r})"
        try:
            async with asyncio.timeout(SECONDS):
                while not await self._asked(script):
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"no {selector} at {await self.text()!r}") from error

    async def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field that may hold something, and type."""
        await self.until(selector)
        await self.evaluate(f"document.querySelector({selector!r}).select()")
        await self.call("Input.insertText", {"text": text})

    async def press(self, selector: str) -> None:
        """Press a button, or follow a link."""
        await self.until(selector)
        await self.evaluate(f"document.querySelector({selector!r}).click()")

    async def text(self) -> str:
        """Return what a person reads on the page."""
        return str(await self.evaluate("document.body.innerText"))

    async def html(self) -> str:
        """Return the page as it stands."""
        return str(await self.evaluate("document.documentElement.outerHTML"))

    async def url(self) -> str:
        """Return what stands in the address bar."""
        return str(await self.evaluate("location.href"))

    async def history(self) -> list[str]:
        """Return the addresses to which the person can go back."""
        entries = (await self.call("Page.getNavigationHistory"))["entries"]
        return [entry["url"] for entry in entries]

    async def cookies(self) -> list[dict[str, Any]]:
        """Return the cookies that the page at hand may be sent."""
        found: list[dict[str, Any]] = (await self.call("Network.getCookies"))["cookies"]
        return found

    async def _asked(self, script: str) -> bool:
        try:
            return bool(await self.evaluate(script))
        except AssertionError:
            return False  # between two pages, there is nothing to ask


def pin(host: str, port: int, context: ssl.SSLContext) -> str:
    """Return the key of a server whose certificate ``context`` trusts, for ``Chromium.start``."""
    with (
        socket.create_connection((host, port), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


async def _address(file: Path, process: asyncio.subprocess.Process) -> str:
    """Return where the browser takes commands, as soon as it has written it down."""
    async with asyncio.timeout(SECONDS):
        while True:
            assert process.returncode is None, f"chromium ended with {process.returncode}"
            if len(lines := _lines(file)) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.05)


def _lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []
