"""Segment's Tracking API: a batch goes out, an answer comes back.

The one module that imports the official client, for its reading of `Retry-After`; its queue and its `post`
are not used (see the README for the reasons).
"""

import base64
import gzip
import hashlib
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from importlib.metadata import version
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit

from retl.clock import Clock, SystemClock
from retl.config.sync import SegmentSettings
from retl.delivery.batch import Batch
from retl.delivery.destination import Action, Attempt, Decision, Limits
from retl.delivery.http import MOST_SECONDS, Body, Http, NoAnswer
from retl.delivery.oauth import Application, NoToken, Tokens
from retl.delivery.quoted import without_quotes
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import Response, RetryPolicy, decide
from retl.errors import DestinationError, SegmentError
from retl.lazy import lazy_module
from retl.version import __version__

if TYPE_CHECKING:
    from segment.analytics import request as client
else:  # the client loads half a dozen libraries to send with, which retl does not use
    client = lazy_module("segment.analytics.request")

MAX_BATCH_CALLS = 2_500
"""Calls in a batch; beyond it Segment answers 200 and drops them (Segment HTTP API docs, "Errors")."""

ENVELOPE_BYTES = 256
"""Room for `{"batch":[…],"context":…,"sentAt":…,"writeKey":…}` around the calls."""

MAX_BATCH_BYTES = 475_000 - ENVELOPE_BYTES
"""Of the joined calls: the official client stops at its BATCH_SIZE_LIMIT, below Segment's 500 KB."""

ENDPOINTS = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
"""Base of the Tracking API by region (Segment docs, "Regional Segment")."""

SETTINGS_URL = "https://cdn.segment.com/v1/projects/{write_key}/settings"
"""Answers 404 for an unknown write key; Segment's own destination asks it before it sends."""

NO_TOKEN = frozenset({401, 511})
"""Answers after which another access token may help. The official client takes one after 400 and 403, too:
they are about a batch and a right, which another token of the same application does not change."""

LONGEST_NUMBER = 1_000
"""Digits of a number that is read; Python refuses a few thousand."""

LONGEST_WAIT = 1_000_000
"""Seconds that a `Retry-After` can ask for; more is beyond any run's deadline anyway."""


@dataclass(frozen=True)
class Source:
    """One Segment source and the way to it.

    Attributes:
        endpoint: base URL without `/v1`.
        write_key: of the source.
        settings_url: where to ask whether the key exists; None where that cannot be asked.
        gzip: whether bodies are compressed.
        ssl_cert: a file of certificates to trust instead of the system's.
        known_as: by what the state knows it, where that is not the endpoint.
        application: the OAuth application that may write to it; None where the write key is enough.
        mark_runs: whether calls carry the id of the run that sends them.
        told_sync: the sync, which a server on this machine is told together with the run; None elsewhere.
    """

    endpoint: str
    write_key: str
    settings_url: str | None = None
    gzip: bool = False
    ssl_cert: str | None = None
    known_as: str | None = None
    application: Application | None = None
    mark_runs: bool = False
    told_sync: str | None = None

    @property
    def hash(self) -> str:
        """By which the state notices a swapped write key or endpoint; the key cannot be read from it."""
        return hashlib.sha256(f"{self.known_as or self.endpoint}\n{self.write_key}".encode()).hexdigest()

    def __repr__(self) -> str:
        """Without the write key."""
        return f"Source({self.endpoint})"


def source_of(settings: SegmentSettings, write_key: str) -> Source:
    """The source that a sync's settings name.

    Only Segment's own hosts are asked about the key; another endpoint cannot know.
    """
    endpoint = settings.endpoint or ENDPOINTS[settings.region]
    endpoint = endpoint.rstrip("/").removesuffix("/batch").removesuffix("/v1")
    segments_own = urlsplit(endpoint).hostname in {urlsplit(one).hostname for one in ENDPOINTS.values()}
    settings_url = SETTINGS_URL.format(write_key=quote(write_key, safe="")) if segments_own else None
    return Source(
        endpoint,
        write_key,
        settings_url,
        settings.gzip,
        settings.ssl_cert,
        mark_runs=settings.mark_runs,
    )


def segment_limits(calls_per_second: int) -> Limits:
    """Segment's limits of a batch, and no more calls than may leave in one second; 0 is without limit."""
    return Limits(min(MAX_BATCH_CALLS, calls_per_second or MAX_BATCH_CALLS), MAX_BATCH_BYTES)


class Segment:
    """Twilio Segment as a destination: an open way to one source, with kept-alive connections.

    Attributes:
        source: the source.
        rate_limiter: for the calls that leave.
        retry_policy: for batches that did not arrive.
        connections: how many batches may be under way at a time.
    """

    name = "Segment"

    def __init__(
        self,
        source: Source,
        rate_limiter: RateLimiter,
        retry_policy: RetryPolicy,
        connections: int,
        clock: Clock | None = None,
        most_seconds: float = MOST_SECONDS,
    ) -> None:
        """Open a way to a source, on which a request takes so many seconds at most."""
        self.source = source
        self.rate_limiter = rate_limiter
        self.retry_policy = retry_policy
        self.connections = connections
        self._http = Http(source.endpoint, connections, source.ssl_cert, most_seconds)
        self._tokens = (
            Tokens(source.application, source.ssl_cert, clock or SystemClock())
            if source.application
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        if self._tokens:
            self._tokens.close()

    @cached_property
    def _headers(self) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            # Its version module would load all of the client.
            "User-Agent": f"retl/{__version__} analytics-python/{version('segment-analytics-python')}",
            "Authorization": f"Basic {base64.b64encode(f'{self.source.write_key}:'.encode()).decode()}",
        }

    @property
    def id(self) -> str:
        """The hash of endpoint and write key."""
        return self.source.hash

    @property
    def limits(self) -> Limits:
        """See `segment_limits`."""
        return segment_limits(self.rate_limiter.calls_per_second)

    def send(self, batch: Batch, attempt: Attempt) -> Decision:
        """Post a batch once, and decide about the response; see `Destination.send`."""
        try:
            response = self.post(batch, attempt.sent_at, attempt.number, attempt.run_id)
        except DestinationError as error:
            return Decision(Action.REFUSED, error.message, error=error)
        if response.body and not response.is_success:
            response = replace(response, shown=without_quotes(response.body, batch, response.status))
        decision = decide(response, attempt.retries, self.retry_policy, random.random())
        decision = replace(decision, status=response.status or 0, unsure=response.unsure)
        if decision.action is Action.REFUSED:
            return replace(decision, error=self._refused(decision.reason))
        if decision.action in {Action.GIVE_UP, Action.STOP}:
            hint = "check the endpoint and the network, then run it again; nothing is lost"
            failed = self.error(f"Segment does not take the calls ({decision.reason})", hint)
            return replace(decision, error=failed)
        return decision

    def error(self, message: str, hint: str) -> SegmentError:
        """An error of Segment, with the endpoint; see `Destination.error`."""
        return SegmentError(message, where=self.source.endpoint, hint=hint)

    def _refused(self, reason: str) -> DestinationError:
        return DestinationError(
            f"Segment refuses the {'write key' if self._tokens is None else 'access token'} ({reason})",
            where=self.source.endpoint,
            hint="check the write key"
            + ("" if self._tokens is None else ", the scope and sources of the OAuth application")
            + " and the region; the calls stay pending",
        )

    def post(self, batch: Batch, sent_at: datetime, retry: int, run_id: str = "") -> Response:
        """Post a batch once.

        The run mark is in the envelope: Segment merges its `context` into that of each call (Segment
        HTTP API docs, "Batch"), and no call is another one for it.

        `sentAt` is of this very attempt: Segment shifts each timestamp by the time between `sentAt`
        and the arrival (Segment Spec, common fields, "Timestamps"). `X-Retry-Count` begins at 0 (Segment's
        "Handling TAPI Response Code in Analytics SDKs").
        """
        context = b'"context":%s,' % json.dumps(mark(run_id)).encode() if self.source.mark_runs else b""
        end = (context, iso(sent_at).encode(), json.dumps(self.source.write_key).encode())
        # The calls leave from where they are: to join the parts would copy half a megabyte.
        parts = (b'{"batch":[', batch.text, b'],%s"sentAt":"%s","writeKey":%s}' % end)
        body: Body = parts
        headers = {**self._headers, "X-Retry-Count": str(retry)}
        if self.source.told_sync is not None:
            headers |= {"X-Retl-Sync": self.source.told_sync, "X-Retl-Run": run_id}
        if self.source.gzip:
            body = gzip.compress(b"".join(parts), compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        url = f"{self.source.endpoint}/v1/batch"
        if self._tokens is None:
            return self._request("POST", url, headers, body)
        return self._with_token(self._tokens, url, headers, body)

    def _with_token(self, tokens: Tokens, url: str, headers: Mapping[str, str], body: Body) -> Response:
        """Post with an access token; where Segment refuses it, once more with another one.

        Raises:
            DestinationError: the token server refuses the application.
        """
        for is_last in (False, True):
            try:
                token = tokens.get()
            except NoToken as missing:
                return Response(None, error=str(missing), retry_after=missing.retry_after)
            response = self._request("POST", url, {**headers, "Authorization": f"Bearer {token}"}, body)
            if response.status not in NO_TOKEN or is_last:
                break
            tokens.forget(token)
        return response

    def check(self) -> str | None:
        """Ask Segment whether it knows the write key; where that cannot be told, returns why.

        Raises:
            DestinationError: Segment does not know it, and would answer 200 and drop every call.
        """
        if self._tokens is not None:
            try:
                self._tokens.get()
            except NoToken as missing:
                return str(missing)
        if self.source.settings_url is None:
            return None
        answer = self._request(
            "GET", self.source.settings_url, {"User-Agent": self._headers["User-Agent"]}, None
        )
        if answer.status in {400, 404}:
            raise DestinationError(
                "Segment does not know this write key, and would drop every call without a word",
                where=self.source.endpoint,
                hint="copy the key from the source's Settings > API Keys into SEGMENT_WRITE_KEY",
            )
        if answer.status is None or answer.status >= 300:
            reason = answer.error or f"HTTP {answer.status}"
            return f"could not ask Segment whether the write key exists ({reason})"
        return None

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        try:
            status, answered, text = self._http.request(method, url, headers, body)
        except NoAnswer as none:
            why = self._without_secrets(str(none))
            return Response(None, error=why, unsure=none.left, lasting=none.lasting)
        return Response(
            status, self._without_secrets(text.decode("utf-8", "replace")), _wait_asked_for(status, answered)
        )

    def _without_secrets(self, text: str) -> str:
        """A text from outside that may quote the request; what it says is shown and stored."""
        if self._tokens is not None:
            text = self._tokens.hide(text)
        key = self.source.write_key
        basic = self._headers["Authorization"].removeprefix("Basic ")
        of_key = (key, basic, basic.rstrip("="), quote(key, safe="")) if key else ()
        for secret in (*of_key, *self._http.secrets):
            text = text.replace(secret, "…")
        return text


def _wait_asked_for(status: int, headers: Mapping[str, str]) -> int | None:
    """Seconds that an answer asks to wait.

    A 429 of Segment has them in two headers (Segment docs, "HTTP API", "Rate limits"). Other servers have a
    moment in the second one, as seconds since 1970: a number that is too large for a wait.
    """
    wait = _retry_after(headers)
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if wait or status != HTTPStatus.TOO_MANY_REQUESTS or not reset.isdecimal():
        return wait
    seconds = int(reset) if len(reset) <= LONGEST_NUMBER else LONGEST_WAIT
    return seconds if seconds < LONGEST_WAIT else wait


def _retry_after(headers: Mapping[str, str]) -> int | None:
    """Seconds to wait, as the official client reads them, but without its cap of 300 seconds.

    To ask again sooner than the server wants makes no call arrive earlier. A date is by the server's clock.
    """
    asked = headers.get("Retry-After", "").strip()
    if not asked:
        return None
    if asked.isdecimal() and len(asked) <= LONGEST_NUMBER:
        return min(int(asked), LONGEST_WAIT)
    if "," not in asked:
        seconds: int | None = client.parse_retry_after(SimpleNamespace(headers=headers))
        return seconds
    with suppress(TypeError, ValueError, OverflowError):
        answered_at = headers.get("Date") or format_datetime(datetime.now(UTC), usegmt=True)
        wait = parsedate_to_datetime(asked) - parsedate_to_datetime(answered_at)
        return max(0, min(int(wait.total_seconds()), LONGEST_WAIT))
    return None


def mark(run_id: str) -> dict[str, dict[str, str]]:
    """The part of a call's context by which Segment's counts can be asked for one run alone."""
    return {"app": {"version": run_id}}


def iso(moment: datetime) -> str:
    """A moment in UTC as Segment wants it: ISO 8601 with milliseconds and `Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
