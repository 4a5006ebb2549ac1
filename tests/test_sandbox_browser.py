"""The sandbox's page in a real browser, as a person uses it."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import urllib3
from axe_playwright_python.sync_playwright import Axe
from browser import DARK, LIGHT, PHONE, TABLET, Opened, open_page, started_chromium
from playwright.sync_api import Browser, Page, Route, expect
from posts import batch, post
from sandbox_calls import arrived, identify, track

import retl
from retl.api import LoadedSync
from retl.sandbox.failures import Failures
from retl.sandbox.page.page_routes import page_routes
from retl.sandbox.rehearsed import ReceiverRehearsal
from retl.sandbox.server import Sandbox
from retl.sandbox.store import Store
from retl.sandbox.webhook import Webhook
from retl.sandbox.webhooks import Webhooks

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>"

expect.set_options(timeout=30_000)  # a busy machine is slow; a page that works is not waited for


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Give a browser to the tests of this module."""
    with started_chromium() as browser:
        yield browser


class Desk:
    """A sandbox with its page, a browser to look at it, and a client that sends calls."""

    def __init__(self, browser: Browser, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._browser = browser
        self._http = urllib3.PoolManager()
        self._ids = count(1)
        self.opened: list[Opened] = []

    def send(self, *calls: dict[str, object]) -> int:
        """Send calls in one batch, each under a message id of its own where it has none."""
        numbered = [{"messageId": f"m{next(self._ids)}", **one} for one in calls]
        return post(self._http, self.sandbox, batch(*numbered)).status

    def open(self, path: str = "/", window: tuple[int, str] = LIGHT) -> Page:
        """Open a page of the sandbox."""
        one = open_page(self._browser, self.sandbox.url + path, window)
        self.opened.append(one)
        return one.page


@pytest.fixture
def desk(chromium: Browser) -> Iterator[Desk]:
    """Give a desk; at its end no page has written to the console, or asked for anything from elsewhere."""
    with Sandbox(routes=page_routes(ReceiverRehearsal()), store=Store()) as sandbox:
        desk = Desk(chromium, sandbox)
        yield desk
        messages = [text for one in desk.opened for text in one.messages]
        foreign = [url for one in desk.opened for url in one.requests if not url.startswith(sandbox.url)]
        for context in chromium.contexts:
            context.close()
        assert ([], []) == (messages, foreign)


@pytest.fixture
def shop(desk: Desk) -> Desk:
    """Give a desk whose sandbox has a few calls of all kinds."""
    desk.send(
        identify("ada", email="ada@example.com", plan="free", vip=True),
        identify("grace", email="grace@example.com", plan="free", vip=True, note=HOSTILE),
        track("ada", "Order Completed", order_id="o-1", total=12.5),
        track("ada", "Segment Entered", segment_name="VIP customers"),
        track("grace", "Segment Entered", segment_name="VIP customers"),
        {**identify("ada", email="ada@example.com", plan="pro", vip=True), "messageId": "twice"},
        {"type": "track", "userId": "linus"},
        {"type": "group", "userId": "ada", "groupId": "acme", "traits": {"seats": 5}},
    )
    desk.send({**identify("ada", plan="pro"), "messageId": "twice"})
    desk.send(track("grace", "Segment Exited", segment_name="VIP customers"))
    return desk


def rows(page: Page) -> list[str]:
    """The lines of the list, each with its words between spaces."""
    return [" ".join(text.split()) for text in page.locator("#rows tr[data-seq]").all_inner_texts()]


def reach(page: Page, text: str) -> None:
    """Press Tab until the element with that text has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText.trim()") == text:
            return
    raise AssertionError(f"no Tab reaches {text!r}")


def test_calls_arrive_while_the_page_is_open(desk: Desk) -> None:
    """The empty page says what to type; calls come in without a reload, and are counted."""
    page = desk.open()
    expect(page.get_by_text("Waiting for the first call")).to_be_visible()
    desk.send(identify("ada", plan="pro"))
    expect(page.locator("#rows tr[data-seq]")).to_have_count(1)
    desk.send(track("ada", "Order Completed", total=1), track("grace", "Visit"))

    expect(page.locator("#rows tr[data-seq]")).to_have_count(3)
    assert "grace" in rows(page)[0]
    expect(page.locator("#bar")).to_contain_text("3 calls")
    expect(page.locator("#throughput .tone-accepted dd")).to_have_text("3")
    assert 0 == page.evaluate("performance.getEntriesByType('navigation').length - 1")


def test_nothing_moves_when_calls_arrive(shop: Desk) -> None:
    """New calls shift nothing; below the pointer they are announced, and come in on a click."""
    page = shop.open()
    page.evaluate(
        """() => {
            window.shifted = 0;
            const add = (list) => list.getEntries().forEach((one) => { window.shifted += one.value; });
            new PerformanceObserver(add).observe({type: 'layout-shift', buffered: true});
        }"""
    )
    shop.send(identify("ken"))
    expect(page.locator("#rows tr[data-seq]")).to_have_count(11)
    page.locator("#rows tr[data-seq]").nth(3).hover()
    before = rows(page)
    shop.send(identify("ken"), identify("ken"))
    expect(page.locator("#pill")).to_have_text("2 new calls")

    assert before == rows(page)
    page.locator("#pill").click()
    expect(page.locator("#rows tr[data-seq]")).to_have_count(13)
    expect(page.locator("#pill")).to_be_hidden()
    assert 0 == page.evaluate("window.shifted")


def test_the_page_pauses_and_goes_on(desk: Desk) -> None:
    """While it is paused nothing comes in; afterwards all of it does."""
    page = desk.open()
    page.get_by_role("button", name="Live").click()
    desk.send(identify("ada"))
    with page.expect_response("**/users"):  # the time that a page takes, in which nothing is asked for
        page.evaluate("fetch('/users')")
    expect(page.get_by_text("Waiting for the first call")).to_be_visible()
    expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("p")

    expect(page.locator("#rows tr[data-seq]")).to_have_count(1)


def test_calls_are_filtered_and_counted(shop: Desk) -> None:
    """A value of a facet is chosen by a click and taken back by another; counts follow, and so does Back."""
    page = shop.open()
    page.locator("#facets").get_by_role("link", name="track").click()
    expect(page.locator("#bar")).to_contain_text("5 calls of 10")
    page.locator("#facets").get_by_role("link", name="Segment Entered").click()
    expect(page.locator("#bar")).to_contain_text("2 calls of 10")
    expect(page.locator("#facets [aria-current]")).to_have_count(2)
    page.go_back()
    expect(page.locator("#bar")).to_contain_text("5 calls of 10")
    page.locator("#search").fill("exited vip")
    expect(page.locator("#bar")).to_contain_text("1 call of 10")
    page.reload()

    expect(page.locator("#search")).to_have_value("exited vip")
    assert 1 == len(rows(page))
    page.get_by_role("link", name="show all").click()
    expect(page.locator("#bar p")).to_contain_text("10 calls")


def test_an_answer_that_comes_late_changes_nothing(shop: Desk) -> None:
    """The list as it was before a filter was chosen does not come back when its answer is late."""
    page = shop.open()
    list_ = shop.sandbox.url + "/"
    late: list[Route] = []
    page.route(list_, lambda route: late.append(route))
    with page.expect_request(list_):
        shop.send(identify("ken"))
    page.locator("#facets").get_by_role("link", name="group").click()
    expect(page.locator("#bar")).to_contain_text("1 call of 11")
    with page.expect_response(list_):
        late[0].continue_()
    with page.expect_response("**/pulse*"):
        pass

    expect(page.locator("#bar")).to_contain_text("1 call of 11")
    assert 1 == len(rows(page))


def test_a_call_opens_beside_the_list(shop: Desk) -> None:
    """An open call shows what it changed, its times, and its JSON, which is copied by a button."""
    page = shop.open("/?user=ada&type=identify")
    page.get_by_role("link", name="identify of ada").nth(1).click()
    call = page.locator("#detail")

    expect(call.get_by_role("heading", name="identify")).to_be_visible()
    expect(call.locator(".change-changed")).to_contain_text("plan")
    assert 'before: "free" now: "pro"' in " ".join(call.locator(".change-changed").inner_text().split())
    expect(call).to_contain_text("It came again 1 time")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    call.get_by_role("button", name="Copy").click()
    expect(call.get_by_role("button", name="Copied")).to_be_visible()
    assert "pro" == json.loads(page.evaluate("navigator.clipboard.readText()"))["traits"]["plan"]
    page.keyboard.press("Escape")
    expect(call.locator("article")).to_have_count(0)
    assert page.url.endswith("/?type=identify&user=ada")


def test_a_discarded_call_and_a_duplicate_say_why(shop: Desk) -> None:
    """Segment's reason is in words; a duplicate leads to the call that it repeats."""
    page = shop.open("/?outcome=discarded")
    expect(page.locator("#rows")).to_contain_text("A track call needs the name of an event")
    page.goto(shop.sandbox.url + "/?outcome=duplicate")
    page.locator("#rows .cover").click()
    expect(page.locator("#detail")).to_contain_text("within 24 hours")
    page.get_by_role("link", name="The first one: call 6").click()

    expect(page.locator("#detail")).to_contain_text("It came again 1 time")


def test_a_user_has_a_timeline(shop: Desk) -> None:
    """A user's name leads to the traits now, the audiences, and each call with what it changed."""
    page = shop.open()
    page.locator("#rows .who a", has_text="grace").first.click()
    expect(page.get_by_role("heading", name="grace", level=1)).to_be_visible()
    expect(page.locator("#traits")).to_contain_text(HOSTILE)
    expect(page.locator("#user-audiences")).to_contain_text("left VIP customers")
    assert 3 == page.locator("#timeline li").count()
    shop.send(identify("grace", plan="team"))

    expect(page.locator("#timeline li")).to_have_count(4)
    expect(page.locator("#timeline li").first).to_contain_text("plan")


def test_an_audience_tells_who_is_in_and_who_left(shop: Desk) -> None:
    """From the audiences one comes to their members, and from these to the users."""
    page = shop.open("/audiences")
    expect(page.locator("#audiences tbody tr").first).to_contain_text("VIP customers")
    page.get_by_role("link", name="VIP customers").click()
    expect(page.locator("#members tbody th")).to_have_text(["ada"])
    page.get_by_role("link", name="Left 1").click()
    expect(page.locator("#members tbody th")).to_have_text(["grace"])
    page.locator("#members tbody th a").click()

    expect(page.get_by_role("heading", name="grace", level=1)).to_be_visible()


def test_a_failure_is_switched_on_and_off(shop: Desk) -> None:
    """A failure of the next request comes once; those by chance are marked at the top until they are over."""
    page = shop.open("/failures")
    page.get_by_role("button", name="500 Internal Server Error").click()
    expect(page.get_by_role("status")).to_contain_text("The next request gets: 500")
    assert [500, 200] == [shop.send(identify("ada")) for _ in range(2)]
    page.get_by_label("429 Too Many Requests").fill("100")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("nav .mark")).to_have_text("on")
    assert 429 == shop.send(identify("ada"))
    expect(page.locator("#answers")).to_contain_text("429 on purpose")
    page.get_by_role("button", name="Nothing fails any more").click()
    expect(page.locator("nav .mark")).to_have_count(0)

    assert 200 == shop.send(identify("ada"))


def test_all_calls_are_cleared_by_two_clicks(shop: Desk) -> None:
    """The button asks once more, and then the list waits for the first call again."""
    page = shop.open()
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Clear all?").click()
    expect(page.get_by_text("Waiting for the first call")).to_be_visible()
    shop.send(identify("ada"))

    expect(page.locator("#rows tr[data-seq]")).to_have_count(1)


def test_all_is_done_by_the_keyboard(shop: Desk) -> None:
    """Keys move through the list, open and close a call, search, and lead to the user and to the views."""
    page = shop.open()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    expect(page.locator("#rows tr.at")).to_have_attribute("data-seq", "9")
    page.keyboard.press("Enter")
    expect(page.locator("#call-title")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#detail article")).to_have_count(0)
    expect(page.locator('tr[data-seq="9"] .cover')).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("order")
    expect(page.locator("#bar")).to_contain_text("1 call of 10")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("u")
    expect(page.get_by_role("heading", name="ada", level=1)).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("4")

    expect(page.get_by_role("heading", name="Audiences")).to_be_visible()
    reach(page, "VIP customers")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="VIP customers")).to_be_visible()


def test_single_keys_can_be_switched_off(shop: Desk) -> None:
    """Who speaks to the machine switches single keys off, and this lasts."""
    page = shop.open()
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_label("single keys are shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.reload()
    page.keyboard.press("j")

    assert 0 == page.locator("#rows tr.at").count()


@pytest.mark.parametrize("window", [LIGHT, DARK, PHONE, TABLET], ids=str)
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?call=6",
        "/?outcome=discarded&call=7",
        "/users",
        "/user?id=ada",
        "/audiences",
        "/failures?once=hang",
        "/runs",
    ],
)
def test_the_page_is_usable_by_everybody(shop: Desk, path: str, window: tuple[int, str]) -> None:
    """In each width and colour axe finds no violation, contrast included, and nothing is cut at the side."""
    page = shop.open(path, window)
    found = Axe().run(page)

    assert 0 == found.violations_count, found.generate_report()
    assert window[0] == page.evaluate("document.documentElement.scrollWidth")


@pytest.mark.parametrize("width", [900, 1179, 1180, 1379, 1380])
def test_all_views_are_seen_at_the_top(chromium: Browser, width: int) -> None:
    """On a computer the links to all views are seen at once, also with webhooks and with failures on."""
    webhooks, failures = Webhooks(), Failures.parse("429=0.5")
    routes = page_routes(ReceiverRehearsal(), webhooks)
    with webhooks, Sandbox(routes=routes, store=Store(), failures=failures) as sandbox:
        webhooks.start([Webhook(f"{sandbox.url}/stand-ins/suprsend")], sandbox.store)
        page = open_page(chromium, f"{sandbox.url}/failures", (width, "light")).page
        seen, needed = page.locator("nav").evaluate("nav => [nav.clientWidth, nav.scrollWidth]")

        assert 10 == page.locator("nav a").count()
        assert needed <= seen


def test_html_in_a_value_is_text(shop: Desk) -> None:
    """HTML in a trait is shown as it is written, in the list, in the call and in what changed."""
    page = shop.open("/?q=onerror&call=2")

    assert HOSTILE in page.locator("#json").inner_text()
    assert HOSTILE in page.locator("#rows").inner_text()
    assert 0 == page.locator("img").count()


def test_the_page_works_without_scripts(chromium: Browser, shop: Desk) -> None:
    """Where scripts are off, links and forms do the same, and what needs a script is not shown."""
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(shop.sandbox.url)
    page.locator("#facets").get_by_role("link", name="group").click()
    page.locator("#rows .cover").click()
    assert "acme" in page.locator("#detail").inner_text()
    assert not page.get_by_role("button", name="Copy").is_visible()
    page.locator("#search").fill("grace")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?type=group&q=grace")
    page.get_by_role("button", name="Clear").click()

    assert "Waiting for the first call" in page.locator("#rows").inner_text()


def test_an_open_page_knows_when_the_sandbox_is_gone(chromium: Browser) -> None:
    """A sandbox that was closed does not look as if it were live."""
    with Sandbox(routes=page_routes(ReceiverRehearsal()), store=Store()) as sandbox:
        page = open_page(chromium, sandbox.url).page

    expect(page.get_by_role("button", name="No answer")).to_be_visible()
    page.context.close()


def test_a_receiver_shows_what_arrives(shop: Desk) -> None:
    """A call leads to the requests that a receiver gets; calls that come later are listed there, too."""
    page = shop.open("/?call=3")
    page.locator("#detail").get_by_role("link", name="Insider").click()
    expect(page.get_by_role("heading", name="Insider", level=1)).to_be_visible()
    expect(page.locator("#detail")).to_contain_text("confirmation_page_view")
    expect(page.locator("#detail")).to_contain_text("POST https://unification.useinsider.com")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("#call-title")).to_be_focused()
    shop.send(identify("ken"))
    expect(page.locator("#pill")).to_have_text("1 new call")
    page.keyboard.press("n")

    expect(page.locator("#rows tr[data-seq]").first).to_contain_text("ken")
    page.get_by_role("link", name="Miso").click()
    expect(page.locator("#rows tr[data-seq]").first).to_contain_text("nothing arrives")


def test_a_hundred_thousand_calls_stay_usable(desk: Desk) -> None:
    """With many calls a page is as small as with few, and still is filtered, searched and paged."""
    calls = (
        identify(f"user-{number % 9_000}", plan="pro", number=number) if number % 2
        else track(f"user-{number % 9_000}", f"Event {number % 40}", number=number)
        for number in range(100_000)
    )  # fmt: skip
    desk.sandbox.store.add([arrived(seq, call, seconds=seq / 200) for seq, call in enumerate(calls, 1)], 0)
    page = desk.open()
    expect(page.locator("#bar")).to_contain_text("100,000 calls")
    page.locator("#facets").get_by_role("link", name="identify").click()
    expect(page.locator("#bar")).to_contain_text("50,000 calls of 100,000")
    page.get_by_role("link", name="Older calls").click()
    expect(page.locator("#rows tr[data-seq]").first).to_have_attribute("data-seq", str(100_000 - 200))
    page.locator("#search").fill("user-7777 99777")
    expect(page.locator("#bar")).to_contain_text(" of 100,000")
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    for path, name in (("/users", "Users"), ("/audiences", "Audiences"), ("/user?id=user-7777", "user-7777")):
        page.goto(desk.sandbox.url + path)
        expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()

    page.goto(desk.sandbox.url)
    assert len(page.content()) < 150_000
    assert 100 == page.locator("#rows tr[data-seq]").count()


def test_a_rehearsal_is_watched_from_run_to_repeat(desk: Desk, tmp_path: Path) -> None:
    """A sync's first calls arrive; a changed row shows its difference; a lost answer makes a duplicate."""
    page = desk.open()
    expect(page.get_by_text("Waiting for the first call")).to_be_visible()
    sync = customers(tmp_path, desk.sandbox.url)
    sync.run()
    expect(page.locator("#rows tr[data-seq]")).to_have_count(2)
    expect(page.locator("#facets")).to_contain_text("customers")

    (tmp_path / "customers.csv").write_text(
        "id,email,plan\nada,ada@example.com,pro\ngrace,g@example.com,free\n"
    )
    page.goto(desk.sandbox.url + "/failures")
    page.get_by_role("button", name="Lost answer").click()
    expect(page.get_by_role("status")).to_contain_text("Lost answer")
    page.get_by_role("link", name="See the calls").click()
    sync.run()
    expect(page.locator("#throughput .tone-duplicate dd")).to_have_text("1")
    assert ["duplicate", "accepted"] == [
        text.strip() for text in page.locator("#rows .end").all_text_contents()[1:3]
    ]
    page.locator("#rows tr[data-seq]").nth(1).locator(".cover").click()
    expect(page.locator(".changes")).to_contain_text("plan")
    page.locator("#open-user").click()

    expect(page.locator("#timeline li")).to_have_count(3)
    expect(page.locator("#traits")).to_contain_text('"pro"')


def customers(folder: Path, endpoint: str) -> LoadedSync:
    """Make a project with one sync of two customers, which goes to a sandbox."""
    (folder / "customers.csv").write_text(
        "id,email,plan\nada,ada@example.com,free\ngrace,g@example.com,free\n"
    )
    (folder / "syncs").mkdir()
    (folder / "syncs/customers.yml").write_text(
        "sql: SELECT * FROM 'customers.csv'\nprimary_key: id\n"
        "identify: {user_id: id, traits: {email: email, plan: plan}}\n"
    )
    segment = f"{{endpoint: '{endpoint}', write_key: key, events_per_second: 0}}"
    (folder / "retl.yml").write_text(f'warehouse: "duckdb://"\nsegment: {segment}\n')
    return retl.load(folder / "syncs/customers.yml")
