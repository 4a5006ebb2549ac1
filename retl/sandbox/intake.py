"""The outcome of each call of a request, as Segment decides it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from retl.sandbox.ingestion import BATCH_LIMIT, Stamps, discard_code, merged_call
from retl.sandbox.known_ids import KnownIds
from retl.sandbox.received import CallOutcome


def outcomes(
    calls: list[Any], envelope: dict[str, Any], arrival: datetime, is_known: bool, known_ids: KnownIds
) -> Iterator[tuple[CallOutcome, str | None, Any]]:
    """Decide about the calls of a request; gives each with its outcome and its discard code.

    Args:
        calls: of the request.
        envelope: what is around them.
        arrival: when it arrived.
        is_known: whether Segment knows its write key.
        known_ids: by which a call is known again.
    """
    if not calls:
        yield CallOutcome.DISCARDED, "empty_batch", envelope
    stamps = Stamps(envelope.get("sentAt"), arrival)
    for position, call in enumerate(calls):
        if not is_known:
            yield CallOutcome.DISCARDED, "project_not_found", call
        elif position >= BATCH_LIMIT:
            yield CallOutcome.DISCARDED, "over_batch_count", call
        elif code := discard_code(merged := merged_call(call, envelope)):
            yield CallOutcome.DISCARDED, code, merged
        else:
            passed_on = stamps.on(merged)
            is_new = known_ids.add(passed_on["messageId"], arrival)
            yield CallOutcome.ACCEPTED if is_new else CallOutcome.DUPLICATE, None, passed_on
