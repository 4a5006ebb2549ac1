"""Pages of the sandbox: which function answers which request beside Segment's own routes.

A page is a function of the local Segment and of what is asked. Whoever starts a sandbox hands in its routes;
the HTTP itself, and who may ask at all, is not theirs to care for.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from retl.sandbox.body import content_type
from retl.sandbox.local_segment import LocalSegment

JSON = "application/json"

STRICT = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of each answer; a page may have others under the same names."""


@dataclass(frozen=True)
class Asked:
    """A request for a page.

    Attributes:
        method: GET, POST or DELETE.
        path: as it was sent, without the query.
        parts: the named groups of the route's pattern, decoded.
        parameters: of the query; of a name that is there several times, the last.
        query: all of it, as it was sent.
        body: of a POST.
        headers: by name in lower case.
    """

    method: str
    path: str
    parts: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        """The kind of the body, in lower case, without its parameters; empty where nothing is said."""
        return content_type(self.headers)


@dataclass(frozen=True)
class PageAnswer:
    """The answer of a page.

    Attributes:
        body: text, bytes, or pieces that are sent as they are made.
        content_type: of the body.
        status: an HTTP status.
        headers: others than the usual ones, or in their place.
    """

    body: str | bytes | Iterable[bytes] = b""
    content_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Page = Callable[[LocalSegment, Asked], PageAnswer]


@dataclass(frozen=True)
class Route:
    """A page and where it is.

    Attributes:
        method: GET, POST or DELETE.
        pattern: a regular expression for the whole path; its named groups reach the page as `parts`.
        page: gives the answer. It may raise a RefusalError.
    """

    method: str
    pattern: str
    page: Page


def find_page(routes: Sequence[Route], method: str, path: str, query: str) -> tuple[Page, Asked] | None:
    """The page for a request, of the first route that fits, and what it is asked; None where none fits."""
    for route in routes:
        found = re.fullmatch(route.pattern, path) if route.method == method else None
        if found is not None:
            parts = {name: unquote(text or "") for name, text in found.groupdict().items()}
            parameters = dict(parse_qsl(query, keep_blank_values=True))
            return route.page, Asked(method, path, parts, parameters, query)
    return None
