"""Frame: what all views have around them, and the answers that they give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from retl.receivers.data_file import receiver
from retl.sandbox.failures import Failures
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.page.html import filled
from retl.sandbox.rehearsed import ReceiverRehearsal
from retl.sandbox.routes import Asked, PageAnswer
from retl.sandbox.webhooks import Webhooks


@dataclass(frozen=True)
class Tab:
    """One of the views that stand at the top.

    Attributes:
        mark: a short text beside the title; empty for none.
    """

    name: str
    title: str
    address: str
    mark: str = ""


@dataclass(frozen=True)
class Frame:
    """The head of each view.

    Attributes:
        rehearsal: the receivers, of which each has a view; None where there are none.
        webhooks: that accepted calls go on to; None where there are none.
    """

    rehearsal: ReceiverRehearsal | None = None
    webhooks: Webhooks | None = None

    @property
    def titles(self) -> Mapping[str, str]:
        """The receivers' names for people, by their names in addresses."""
        return {name: receiver(name).title for name in self.rehearsal.names} if self.rehearsal else {}

    def around(
        self, sandbox: LocalSegment, template: str, tab: str, status: int = 200, **values: Any
    ) -> PageAnswer:
        """A view as a page: its template, with the values that it needs beside those of all views."""
        gone = sandbox.store.holdings()["gone"]
        tabs = self._tabs(sandbox)
        return filled(template, status, tabs=tabs, current=tab, gone=gone, url=sandbox.url, **values)

    def _tabs(self, sandbox: LocalSegment) -> Sequence[Tab]:
        return (
            Tab("calls", "Calls", "/"),
            Tab("runs", "Runs", "/runs"),
            Tab("users", "Users", "/users"),
            Tab("audiences", "Audiences", "/audiences"),
            *(Tab(name, title, f"/receivers/{name}") for name, title in self.titles.items()),
            *(
                [Tab("webhooks", "Webhooks", "/webhooks")]
                if self.webhooks and self.webhooks.summary()
                else []
            ),
            Tab("failures", "Failures", "/failures", "" if sandbox.failures == Failures() else "on"),
        )


View = Callable[[Frame, LocalSegment, Asked], PageAnswer]
"""The answer to what is asked, of a sandbox, in a frame."""


def query_of(asked: Asked) -> Mapping[str, Sequence[str]]:
    """The query of a request; of a name all values."""
    return parse_qs(asked.query)


def text_of(query: Mapping[str, Sequence[str]], name: str) -> str:
    """The last value of a name; empty where it has none."""
    return query.get(name, [""])[-1]
