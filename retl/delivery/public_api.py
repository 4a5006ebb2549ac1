"""Segment's Public API: what a source received, failed to take in and filtered, counted by event.

These are the counts of the app's Delivery Overview (docs.segmentapis.com, "Delivery Overview", a beta). Not
tried against a live account: paths, windows and the form of the answers are those of the documentation and of
Segment's own SDK.
"""

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from retl.address import shown
from retl.clock import Clock
from retl.delivery.address import is_local
from retl.delivery.http import Http, NoAnswer
from retl.errors import ConfigError, SegmentError
from retl.mask import note
from retl.version import __version__

URLS = {"us": "https://api.segmentapis.com", "eu": "https://eu1.api.segmentapis.com"}
"""Base of the Public API by region (docs.segmentapis.com, "Getting Started")."""

LAG = timedelta(minutes=5)
"""How far the counts are behind (Segment docs, "Delivery Overview")."""

TOKEN, URL = "SEGMENT_PUBLIC_API_TOKEN", "SEGMENT_PUBLIC_API_URL"
"""The environment variables of the token, and of another base than that of the region."""

MOST_A_MINUTE = 50
"""Requests in any minute; the lowest limit that Segment documents for counts is 60."""

MOST_WAITED = 300.0
"""Seconds that one command waits in all because Segment asks it to."""

MOST_FAILURES = 4
"""Answers in a row that are none, or 5xx, after which it is given up."""

MOST_BYTES = 8_000_000
"""How much of an answer is read: a page of counts has a point for each minute of each event."""

PAGE, MOST_PAGES = 100, 1_000
"""Counts on a page, and pages that are read."""


class CountKind(StrEnum):
    """A count of the Delivery Overview, by its path."""

    RECEIVED = "successfully-received"
    FAILED = "failed-on-ingest"
    FILTERED = "filtered-at-source"


@dataclass(frozen=True)
class Granularity:
    """The size of Segment's buckets, and what can be asked of them.

    Attributes:
        name: as the API has it.
        size: of a bucket.
        longest: the longest time of one question.
        oldest: how long ago its beginning may be.
    """

    name: str
    size: timedelta
    longest: timedelta
    oldest: timedelta


MINUTE = Granularity("MINUTE", timedelta(minutes=1), timedelta(hours=4), timedelta(hours=48))
HOUR = Granularity("HOUR", timedelta(hours=1), timedelta(days=14), timedelta(days=30))


@dataclass(frozen=True)
class Window:
    """A time to ask about, in whole buckets: from `start`, which is in it, to `end`, which is not."""

    granularity: Granularity
    start: datetime
    end: datetime


def window(start: datetime, end: datetime, now: datetime) -> Window:
    """The smallest time in whole buckets that holds a run, and the finest buckets that are still there.

    Args:
        start: when the run began, UTC.
        end: when its last call was answered.
        now: UTC.

    Raises:
        ConfigError: Segment has no counts any more that are as old.
    """
    for granularity in (MINUTE, HOUR):
        begins = _floor(start, granularity.size)
        if now - begins <= granularity.oldest:
            return Window(granularity, begins, _floor(end, granularity.size) + granularity.size)
    raise ConfigError(
        f"the run began at {start:%Y-%m-%d %H:%M} UTC, and Segment keeps its counts for 30 days",
        hint="verify a later run",
    )


def _floor(moment: datetime, size: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment - epoch) // size * size


@dataclass(frozen=True)
class Count:
    """A number of calls, by type, event and, where they were dropped, the reason."""

    type: str
    event: str | None
    reason: str | None
    calls: int


class PublicApi:
    """An open way to the Public API."""

    def __init__(
        self,
        url: str,
        token: str,
        clock: Clock,
        ssl_cert: str | None = None,
        asked_at: deque[float] | None = None,
    ) -> None:
        """Connect when the first question is asked.

        Args:
            url: base URL.
            token: a Public API token of the workspace; a secret.
            clock: for the waits between requests.
            ssl_cert: a file of certificates to trust instead of the system's.
            asked_at: the moments of the last requests, where several ways share one rate; see `moments`.

        Raises:
            ConfigError: the URL is not one, or would carry the token unencrypted.
        """
        if urlsplit(url).scheme != "https" and not is_local(url):
            raise ConfigError(
                f"`{shown(url)}` would carry the token unencrypted", where=URL, hint="use https://"
            )
        self._url = url.rstrip("/")
        self._token = note(token)
        self._clock = clock
        self._http = Http(self._url, 1, ssl_cert, most_bytes=MOST_BYTES)
        self._asked_at = moments() if asked_at is None else asked_at
        self._waited = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def counts(self, kind: CountKind, source_id: str, time: Window, run_id: str | None) -> list[Count]:
        """The calls that a kind counts, by type, event and reason.

        Args:
            kind: that is asked for.
            source_id: of the source.
            time: that is asked about, in as many questions as it takes.
            run_id: asks only for calls that carry it as their run mark; None asks for all.

        Raises:
            ConfigError: Segment refuses the token, or does not know the source.
            SegmentError: it cannot be reached, or answers otherwise than documented.
        """
        dimensions = ["eventName", "eventType"] + ["discardReason"] * (kind is not CountKind.RECEIVED)
        found = []
        start = time.start
        while start < time.end:
            end = min(start + time.granularity.longest, time.end)
            query = {
                "sourceId": source_id,
                "startTime": _iso(start),
                "endTime": _iso(end),
                "granularity": time.granularity.name,
                **{f"groupBy.{place}": name for place, name in enumerate(dimensions)},
                **({"filter.appVersion.0": run_id} if run_id else {}),
            }
            for data in self._pages(f"/delivery-overview/{kind}", query):
                found += [_count(one) for one in data["dataset"]]
            start = end
        return found

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """The pages of an answer."""
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = {"pagination.count": str(PAGE)} | ({"pagination.cursor": cursor} if cursor else {})
            body = self._get(path, {**query, **page})
            try:
                data = json.loads(body)["data"]
                following = (data.get("pagination") or {}).get("next")
                for one in data["dataset"]:
                    _count(one)
            except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
                raise self._error(
                    f"the answer of {path} is not as documented: {self._words(body)}"
                ) from error
            yield data
            if not following or following == cursor:
                return
            cursor = following
        raise self._error(f"the answer of {path} has more than {MOST_PAGES:,} pages")

    def _get(self, path: str, query: Mapping[str, str]) -> bytes:
        """The body of an answer, asked for again where Segment is busy or cannot be reached."""
        failures = 0
        while True:
            self._keep_rate()
            try:
                url = f"{self._url}{path}?{urlencode(query)}"
                status, headers, body = self._http.request("GET", url, self._headers, None)
            except NoAnswer as none:
                status, headers, said = 0, {}, str(none).replace(self._token, "…")
                failures = MOST_FAILURES if none.lasting else failures + 1
            else:
                if status == 200:
                    return body
                said = f"{status} {self._words(body)}".strip()
                failures += status >= 500
            _refuse(status, said, query["sourceId"])
            if failures >= MOST_FAILURES or (0 < status < 500 and status != 429):
                raise self._error(f"Segment's Public API fails ({said})")
            self._wait(_seconds(headers) if status == 429 else float(2**failures), said)

    @property
    def _headers(self) -> dict[str, str]:
        return {
            "Accept": "application/vnd.segment.v1beta+json, application/json",
            "Authorization": f"Bearer {self._token}",
            "User-Agent": f"retl/{__version__}",
        }

    def _keep_rate(self) -> None:
        """Wait where the last minute has as many requests as a minute may have."""
        if len(self._asked_at) == MOST_A_MINUTE:
            self._clock.wait(max(0.0, self._asked_at[0] + 60.0 - self._clock.monotonic()), threading.Event())
        self._asked_at.append(self._clock.monotonic())

    def _wait(self, seconds: float, said: str) -> None:
        if self._waited + seconds > MOST_WAITED:
            raise self._error(f"Segment's Public API asks to wait too long ({said})")
        self._waited += seconds
        self._clock.wait(seconds, threading.Event())

    def _words(self, body: bytes) -> str:
        """The beginning of what an answer says, without the token."""
        text = body.decode("utf-8", "replace")
        with suppress(ValueError, RecursionError, TypeError, KeyError):
            text = "; ".join(str(one["message"]) for one in json.loads(text)["errors"])
        return " ".join(text.replace(self._token, "…").split())[:200]

    def _error(self, message: str) -> SegmentError:
        return SegmentError(message, where=shown(self._url), hint="run it again later; nothing was changed")


def moments() -> deque[float]:
    """The moments of the last requests, on the monotonic clock, as many as a minute may have."""
    return deque(maxlen=MOST_A_MINUTE)


def _refuse(status: int, said: str, source_id: str) -> None:
    """Raise a ConfigError for an answer that is about the token or the source."""
    if status in {401, 403}:
        raise ConfigError(
            f"Segment's Public API refuses the token ({said})",
            where=TOKEN,
            hint="it must be a Public API token (Settings > Access Management > Tokens) of the source's "
            "workspace and region",
        )
    if status == 404:
        raise ConfigError(
            f"Segment's Public API does not know this source ({said})",
            where=f"source {source_id}",
            hint="copy the id from the source's Settings > API Keys; it is not the write key",
        )


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _count(said: Mapping[str, Any]) -> Count:
    return Count(
        str(said.get("eventType") or "").lower(),
        said.get("eventName") or None,
        said.get("discardReason") or None,
        int(said["total"]),
    )


def _seconds(headers: Mapping[str, str]) -> float:
    """Seconds that a busy Segment asks to wait; a minute where it does not say."""
    for name in ("Retry-After", "X-RateLimit-Reset"):
        written = headers.get(name, "").strip()
        if written.isdecimal() and len(written) <= 9:
            return max(1.0, float(written))
    return 60.0
