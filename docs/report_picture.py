"""`make pictures`: takes the pictures of a report in docs/, of a shop that was really run for a month."""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import ViewportSize, sync_playwright
from report_month import lived_month

from retl.report.page import Report, render
from retl.reporting import sync_section
from retl.session import load_session

PICTURES = {"report.png": "light", "report-dark.png": "dark"}
"""Each picture, and the colours that the browser asks for."""

WINDOW: ViewportSize = {"width": 1100, "height": 1165}


def report_page(folder: Path) -> str:
    """The report of a month, which is lived in the folder."""
    with lived_month(folder) as clock:
        now = clock.now()
        sections = [
            sync_section(load_session(path, None, False), now - timedelta(days=30), show_values=False)
            for path in sorted(folder.glob("syncs/*.yml"))
        ]
        return render(Report(folder.name, now, 30, False, False, sections))


def take_pictures(page: Path, names: Sequence[str]) -> None:
    """Take the pictures of a page, whatever Chromium the machine has."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        for name in names:
            dark = PICTURES[name] == "dark"
            window = browser.new_page(viewport=WINDOW, color_scheme="dark" if dark else "light")
            window.goto(page.as_uri())
            window.screenshot(path=Path(__file__).with_name(name))
        browser.close()


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        shop = Path(temporary) / "shop"
        shop.mkdir()
        page = Path(temporary) / "report.html"
        page.write_text(report_page(shop), encoding="utf-8")
        take_pictures(page, list(PICTURES))
