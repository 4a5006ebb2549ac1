"""The view of failures: what goes wrong, by chance or with the next request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from retl.errors import ConfigError
from retl.sandbox.failures import Failures, Reply
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.page.frame import Frame, query_of, text_of
from retl.sandbox.page.html import led_to
from retl.sandbox.page.request import newest_requests
from retl.sandbox.routes import Asked, PageAnswer


@dataclass(frozen=True)
class Switch:
    """A failure that can be switched on.

    Attributes:
        name: as `retl sandbox --failures` has it.
        title: in a few words.
        means: what retl does then.
        reply: the reply that it is.
    """

    name: str
    title: str
    means: str
    reply: Reply


SWITCHES = (
    Switch(
        "429",
        "429 Too Many Requests",
        "Takes nothing and asks to wait a second. retl waits, lowers its rate and sends the batch again.",
        Reply(429, retry_after=1),
    ),
    Switch(
        "500",
        "500 Internal Server Error",
        "Takes nothing. retl waits and sends the batch again under the same message ids.",
        Reply(500),
    ),
    Switch(
        "lost_answer",
        "Lost answer",
        "Takes the calls, then closes the connection. retl cannot know, and sends them again: duplicates.",
        Reply(lost=True),
    ),
    Switch(
        "hang",
        "No answer",
        "Takes nothing and says nothing. retl gives up after its timeout and sends the batch again.",
        Reply(hang=True),
    ),
)


def failures_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """The switches as they stand, and the answers of late."""
    return _shown(frame, sandbox, once=text_of(query_of(asked), "once"))


def set_failures(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """Fail by the chances of a form from now on."""
    form = _form(asked)
    try:
        failures = Failures.parse(",".join(_written(form)))
    except (ConfigError, ValueError) as error:
        return _shown(frame, sandbox, status=400, error=str(error), form=form)
    sandbox.fail(failures)
    return led_to("/failures")


def fail_once(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """Fail the next request of a client, in one way."""
    name = text_of(_form(asked), "name")
    found = next((one for one in SWITCHES if one.name == name), None)
    if found is None:
        return _shown(frame, sandbox, status=400, error=f"{name!r} is no failure")
    sandbox.script([found.reply])
    return led_to(f"/failures?once={found.name}")


def _form(asked: Asked) -> Mapping[str, Sequence[str]]:
    return parse_qs(asked.body.decode("utf-8", "replace"))


def _written(form: Mapping[str, Sequence[str]]) -> list[str]:
    """The failures of a form as `Failures.parse` reads them; per cent become chances."""
    parts = [
        f"{one.name}={float(percent) / 100:.6f}"
        for one in SWITCHES
        if (percent := text_of(form, one.name)) and float(percent)
    ]
    parts += [f"latency={latency}ms" for latency in [text_of(form, "latency")] if latency.strip("0")]
    parts += [f"rate={rate}" for rate in [text_of(form, "rate")] if rate.strip("0")]
    return [*parts, text_of(form, "others")]


def _shown(
    frame: Frame,
    sandbox: LocalSegment,
    status: int = 200,
    once: str = "",
    error: str = "",
    form: Mapping[str, Sequence[str]] | None = None,
) -> PageAnswer:
    values = _values(sandbox.failures)
    return frame.around(
        sandbox,
        "failures.html",
        "failures",
        status=status,
        switches=SWITCHES,
        values=values if form is None else {name: text_of(form, name) for name in values},
        once=next((one.title for one in SWITCHES if one.name == once), ""),
        error=error,
        requests=newest_requests(sandbox.store),
    )


def _values(failures: Failures) -> dict[str, str]:
    """The values of the form: chances in per cent, what has no switch as it is written."""
    names = {one.name for one in SWITCHES}
    chances = {reply.word: chance for chance, reply in failures.chances}
    others = [f"{reply.word}={chance:g}" for chance, reply in failures.chances if reply.word not in names]
    return {
        **{name: f"{100 * chances.get(name, 0):g}" for name in names},
        "latency": f"{1000 * failures.latency:.0f}",
        "rate": str(failures.calls_per_second),
        "others": ",".join(others),
    }
