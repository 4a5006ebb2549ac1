"""Where each view of the page is."""

from functools import partial

from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.page import call_views, failure_views, receiver_views, user_views, webhook_views
from retl.sandbox.page.frame import Frame, View
from retl.sandbox.page.html import FILES, file_answer
from retl.sandbox.rehearsed import ReceiverRehearsal
from retl.sandbox.routes import Asked, PageAnswer, Route
from retl.sandbox.webhooks import Webhooks


def page_routes(
    rehearsal: ReceiverRehearsal | None = None, webhooks: Webhooks | None = None
) -> tuple[Route, ...]:
    """The routes of the page.

    Args:
        rehearsal: the receivers, each of which gets a view; None for none.
        webhooks: get a view together, where there are some; None for none.
    """
    frame = Frame(rehearsal, webhooks)

    def route(method: str, pattern: str, view: View) -> Route:
        return Route(method, pattern, partial(view, frame))

    return (
        route("GET", "/", call_views.calls_view),
        route("GET", "/pulse", call_views.pulse_view),
        route("GET", "/runs", user_views.runs_view),
        route("GET", "/users", user_views.users_view),
        route("GET", "/user", user_views.user_view),
        route("GET", "/audiences", user_views.audiences_view),
        route("GET", "/audience", user_views.audience_view),
        route("GET", r"/receivers/(?P<name>[\w-]+)", receiver_views.receiver_view),
        route("GET", "/webhooks", webhook_views.webhooks_view),
        route("GET", "/failures", failure_views.failures_view),
        route("POST", "/failures", failure_views.set_failures),
        route("POST", "/failures/once", failure_views.fail_once),
        Route("GET", f"/page/(?P<name>{'|'.join(FILES)})", _file),
    )


def _file(sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """A style, a script or a picture."""
    return file_answer(asked.parts["name"])
