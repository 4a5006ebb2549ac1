"""`make pictures`: takes the pictures of the sandbox's page in docs/, of a shop that was really run."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import urllib3
from playwright.sync_api import ViewportSize, sync_playwright
from sandbox_shop import shop_evening

from retl.sandbox.server import Sandbox

PICTURES = {"sandbox.png": "light", "sandbox-dark.png": "dark"}
"""Each picture, and the colours that the browser asks for."""

WINDOW: ViewportSize = {"width": 1240, "height": 760}

OPENED = """
SELECT max("seq") AS "seq" FROM "call"
WHERE "type" = 'identify' AND "outcome" = 'accepted' AND ("body" ->> '$.traits.plan') = 'pro'
"""
"""The call that is open: a user of whom something changed."""


def take_pictures(sandbox: Sandbox) -> None:
    """Take the pictures of a sandbox's page, whatever Chromium the machine has."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    (opened,) = sandbox.store.read(OPENED)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        for name, colors in PICTURES.items():
            dark = colors == "dark"
            window = browser.new_page(viewport=WINDOW, color_scheme="dark" if dark else "light")
            window.goto(f"{sandbox.url}/?call={opened['seq']}")
            window.screenshot(path=Path(__file__).with_name(name))
        browser.close()


def send_what_segment_discards(sandbox: Sandbox) -> None:
    """Send two calls that retl never would: one without a user, one without an event."""
    calls = [{"type": "track", "event": "Order Completed"}, {"type": "track", "userId": "u1007"}]
    body = {"writeKey": "key", "batch": calls}
    urllib3.request("POST", f"{sandbox.url}/v1/batch", json=body)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary, shop_evening(Path(temporary)) as sandbox:
        send_what_segment_discards(sandbox)
        take_pictures(sandbox)
