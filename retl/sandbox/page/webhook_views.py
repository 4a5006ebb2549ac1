"""The view of webhooks: what became of the calls that go on to them."""

from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.page.frame import Frame
from retl.sandbox.routes import Asked, PageAnswer


def webhooks_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """The counts of each webhook, and its last error."""
    told = frame.webhooks.summary() if frame.webhooks else []
    return frame.around(sandbox, "webhooks.html", "webhooks", webhooks=told)
