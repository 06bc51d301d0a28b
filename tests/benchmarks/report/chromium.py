"""A page in the headless Chromium of the system, driven by playwright."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from playwright.sync_api import ConsoleMessage, Request, sync_playwright

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_ALLOWED = ("file:", "data:", "about:", "blob:")


class Browser:
    """One page. `problems` collects console errors, exceptions, and whatever the page wanted to load besides itself."""

    def __init__(self) -> None:
        assert PROGRAM is not None
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._driver = sync_playwright().start()
        self._browser = self._driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        self._context = self._browser.new_context()
        self._page = self._context.new_page()
        self._page.on("console", self._heard)
        self._page.on("pageerror", lambda error: self.problems.append(str(error)))
        self._page.on("request", self._asked)
        self._protocol = self._context.new_cdp_session(self._page)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._browser.close()
        self._driver.stop()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.problems.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if request.url.startswith(_ALLOWED):
            self.requests.append(request.url)
        else:
            self.problems.append(f"request: {request.url}")

    def open(self, address: str) -> None:
        """Load `address` and wait until it is complete."""
        self._page.goto("about:blank")
        self.requests = []
        self._page.goto(address, wait_until="load")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression on the page."""
        return self._page.evaluate(script)

    def choose(self, selector: str, value: str) -> None:
        """Choose `value` in a select element, as a user does."""
        assert self._page.select_option(selector, value) == [value]

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        self._page.click(selector)

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self._page.mouse.move(x, y)

    def move_to(self, selector: str) -> None:
        """Scroll the first such element into view and, once the page has heard of it, move the mouse to its middle."""
        x, y = self.run(
            f"""new Promise(done => {{
                const found = document.querySelector({selector!r});
                found.scrollIntoView({{behavior: 'instant', block: 'center'}});
                requestAnimationFrame(() => requestAnimationFrame(() => {{
                    const r = found.getBoundingClientRect();
                    done([r.x + r.width / 2, r.y + r.height / 2]);
                }}));
            }})"""
        )
        self.move(x, y)

    def press(self, key: str) -> None:
        """Press and release a key, such as ArrowRight."""
        self._page.keyboard.press(key)

    def look(
        self, *, width: int = 1100, height: int = 800, scheme: Literal["light", "dark"] = "light", mobile: bool = False
    ) -> None:
        """Set the size of the window and the colour scheme of the system."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._protocol.send("Emulation.setDeviceMetricsOverride", size)
        self._page.emulate_media(color_scheme=scheme)

    def accessible(self) -> list[dict[str, Any]]:
        """The nodes of the page as a screen reader is told of them."""
        found: list[dict[str, Any]] = self._protocol.send("Accessibility.getFullAXTree")["nodes"]
        return found

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of what is seen, or of the whole page."""
        self._page.screenshot(path=path, full_page=whole)
