"""The message ids by which the sandbox knows a call again."""

from datetime import datetime

from retl.sandbox.ingestion import DUPLICATE_WINDOW

MOST_IDS = 1_000_000
"""Ids that are known at a time; the oldest ones make room."""


class KnownIds:
    """Message ids with their first arrivals, each known for as long as Segment promises."""

    def __init__(self, most: int = MOST_IDS) -> None:
        """Know no more than so many."""
        self._most = most
        self._first_arrivals: dict[str, datetime] = {}

    def add(self, message_id: str, arrival: datetime) -> bool:
        """Note the arrival of a call; whether it is new."""
        first = self._first_arrivals.get(message_id)
        if first is not None:
            if arrival - first < DUPLICATE_WINDOW:
                return False
            del self._first_arrivals[message_id]  # so that the order stays that of arrival
        self._first_arrivals[message_id] = arrival
        if len(self._first_arrivals) > self._most:
            del self._first_arrivals[next(iter(self._first_arrivals))]
        return True

    def clear(self) -> None:
        """Know none any more."""
        self._first_arrivals.clear()
