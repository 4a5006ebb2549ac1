"""The report in a real browser: what is seen, that it loads nothing, and that everybody can use it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import DARK, LIGHT, PHONE, TABLET, Opened, open_page, started_chromium
from playwright.sync_api import Browser, Page
from report_records import HOSTILE, facts, guarded_run, past_run, rejected, report, section, stopped_run

from retl.errors import ConfigError
from retl.report.condition import RUNNING
from retl.report.page import Report, render
from retl.report.section import Section
from retl.reporting import unreadable_section

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Give a browser to the tests of this module."""
    with started_chromium() as browser:
        yield browser


class Opener:
    """Opens reports in a browser."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self._browser = browser
        self._file = folder / "report.html"

    def open(self, report: Report, window: tuple[int, str] = LIGHT) -> Opened:
        """Open a report in a window of some width, with the colours that its user likes."""
        self._file.write_text(render(report), encoding="utf-8")
        return open_page(self._browser, self.address, window)

    @property
    def address(self) -> str:
        """The address of the file."""
        return self._file.as_uri()


@pytest.fixture
def opener(chromium: Browser, tmp_path: Path) -> Iterator[Opener]:
    """Give an opener of reports, whose windows are closed in the end."""
    yield Opener(chromium, tmp_path)
    for context in chromium.contexts:
        context.close()


def month() -> list[Section]:
    """The sections of several syncs: with all that can go wrong, running, broken, and with one run."""
    runs = [past_run(number) for number in range(30)]
    runs[5], runs[9], runs[29] = guarded_run(5), stopped_run(9), stopped_run(29)
    known = facts(runs, **rejected("ada@example.com"), pending=20, waiting=[runs[29].run_id])
    return [
        section(known, show_values=True),
        section(facts([past_run(0)]), "just begun"),
        section(facts([]), "new"),
        Section("busy", RUNNING, notes=("A process holds the state: pid 7 on host.",), was_read=False),
        unreadable_section("broken", ConfigError("unknown key `tarits`", hint="write `traits`")),
        section(facts([stopped_run(0)], **rejected(HOSTILE)), HOSTILE, show_values=True),
    ]


@pytest.mark.parametrize("window", [LIGHT, DARK, PHONE, TABLET], ids=str)
def test_the_page_is_usable_by_everybody(opener: Opener, window: tuple[int, str]) -> None:
    """In each width and colour axe finds no violation, contrast included, with everything unfolded."""
    opened = opener.open(report(*month(), show_values=True), window)
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = Axe().run(opened.page)

    assert 0 == found.violations_count, found.generate_report()


@pytest.mark.parametrize("window", [LIGHT, DARK, PHONE, TABLET], ids=str)
def test_the_page_loads_nothing_and_the_console_is_empty(opener: Opener, window: tuple[int, str]) -> None:
    """The page asks for its own file alone, no message is on the console, and nothing is cut at the side."""
    opened = opener.open(report(*month(), show_values=True), window)
    opened.page.mouse.move(200, 600)
    width = opened.page.evaluate("document.documentElement.scrollWidth")

    assert ([], [opener.address], window[0]) == (opened.messages, opened.requests, width)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_the_page_works_with_any_number_of_runs(opener: Opener, count: int) -> None:
    """No run, one run and 500 runs give a page of which nothing is cut, with each run in its table."""
    sections = [section(facts([past_run(number) for number in range(count)]))]
    opened = opener.open(report(*sections), PHONE)

    assert count == opened.page.locator("table tbody tr:has(td[data-label=Took])").count()
    assert 360 == opened.page.evaluate("document.documentElement.scrollWidth")
    assert [] == opened.messages
    assert len(opened.page.content()) < 1_500_000


def test_the_operator_reads_the_cause_first(opener: Opener) -> None:
    """State, cause, way out, pending calls and rejections stand above the charts, as text."""
    page = opener.open(report(month()[0])).page
    head = page.locator(".sync .head")
    text = head.inner_text()

    for line in ("users", "failed", "Segment does not answer", "What to do: run it again; nothing is lost"):
        assert line in text
    assert ["20", "2"] == head.locator(".figures dd:not(.soft)").all_inner_texts()[:2]
    assert top(page, ".sync .head") < top(page, ".charts") < top(page, "#sync-1-runs")


def top(page: Page, selector: str) -> float:
    """How far down the first such element is."""
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["y"]


def test_the_state_is_told_by_words_and_an_icon(opener: Opener) -> None:
    """Wherever a state has a colour, it has words and an icon, too."""
    page = opener.open(report(*month())).page
    states = page.locator(".state").all()

    assert states
    assert all((one.text_content() or "").strip() and one.locator("svg.icon").count() == 1 for one in states)


def test_colours_follow_the_users_choice(opener: Opener) -> None:
    """The page is light or dark as the browser asks, and so are the bars of the charts."""
    colors: list[Sequence[str]] = []
    for window in (LIGHT, DARK):
        page = opener.open(report(month()[0]), window).page
        colors.append(
            page.evaluate(
                """() => [
                    getComputedStyle(document.body).backgroundColor,
                    getComputedStyle(document.querySelector('.chart path[fill="var(--changed)"]')).fill,
                ]"""
            )
        )

    assert not set(colors[0]) & set(colors[1])


def test_a_bar_tells_its_values(opener: Opener) -> None:
    """The bar below the pointer shows when its run began, how it ended, and its values."""
    page = opener.open(report(month()[0])).page
    page.locator("figure:has-text('Rows that changed') .chart [data-says]").nth(3).hover()
    tip = page.locator("#tip")

    assert tip.is_visible()
    assert "1 Mar 15:00: finished with rejections\nadded 5\nchanged 10\nremoved 5" == tip.inner_text()
    page.mouse.move(2, 2)
    assert not tip.is_visible()


def test_the_cause_of_a_failure_opens_by_the_keyboard(opener: Opener) -> None:
    """The Tab key comes to the cause of a failed run, and Enter unfolds it."""
    page = opener.open(report(month()[0])).page
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Why, and what to do":
            break
    page.keyboard.press("Enter")

    assert page.locator(".detail .why").first.is_visible()


def test_names_and_keys_are_text(opener: Opener) -> None:
    """HTML in the name of a sync, in a key or in an error is shown as it is written; nothing of it runs."""
    opened = opener.open(report(month()[-1], show_values=True))

    assert HOSTILE == opened.page.locator("h2").first.inner_text()
    assert f"{HOSTILE} user user {HOSTILE}" in opened.page.locator("td.value").last.inner_text()
    assert 0 == opened.page.locator("img").count()
    assert [] == opened.messages


def test_paper_shows_what_is_folded_and_is_light(opener: Opener) -> None:
    """A print is dark on white, whatever the screen is, and what is folded is printed."""
    page = opener.open(report(month()[0]), DARK).page
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")

    assert page.locator(".detail .why").first.is_visible()
    assert "rgb(255, 255, 255)" == page.evaluate(
        "getComputedStyle(document.querySelector('.card')).backgroundColor"
    )
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator(".detail .why").first.is_visible()
