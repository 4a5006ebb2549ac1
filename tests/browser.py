"""A real Chromium for tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page, sync_playwright

LIGHT, DARK, PHONE, TABLET = (1180, "light"), (1180, "dark"), (360, "light"), (768, "dark")
"""Windows: how wide they are, and the colours that their user likes."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def started_chromium() -> Iterator[Browser]:
    """Start the machine's Chromium, or the one that RETL_TEST_CHROMIUM names."""
    path = os.environ.get("RETL_TEST_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Opened:
    """A page that was opened.

    Attributes:
        page: the page.
        messages: of the console, errors among them.
        requests: the addresses that it asked for.
    """

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def open_page(browser: Browser, address: str, window: tuple[int, str] = LIGHT) -> Opened:
    """Open an address in a window of its own."""
    width, colors = window
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if colors == "dark" else "light"
    )
    one = Opened(context.new_page())
    one.page.on("console", lambda message: one.messages.append(message.text))
    one.page.on("pageerror", lambda error: one.messages.append(str(error)))
    one.page.on("request", lambda request: one.requests.append(request.url))
    one.page.goto(address)
    return one
