"""The calls that a query of a page asks for, as a condition of SQL."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from retl.nearest import did_you_mean
from retl.sandbox.body import RefusalError
from retl.sandbox.received import CallOutcome

LONGEST_NUMBER = 19
"""Digits from which on a number is not even read."""

EQUAL = {
    "event": "event",
    "type": "type",
    "sync": "sync",
    "run": "run_id",
    "outcome": "outcome",
    "reason": "reason",
}
"""Parameters that one column of `call` must be equal to."""

PARAMETERS = (*EQUAL, "after", "before", "limit", "q", "user")
"""All that a query may ask by."""


@dataclass(frozen=True)
class CallFilter:
    """A condition on the table `call`, with the values that are bound to its `?`.

    Attributes:
        condition: SQL; `true` where all calls are asked for.
        values: in the order of the condition.
    """

    condition: str
    values: tuple[str | int, ...] = ()


def call_filter(parameters: Mapping[str, str]) -> CallFilter:
    """The calls that `after`, `before`, `user`, `q` and those of `EQUAL` ask for; an empty one asks nothing.

    `user` is a user id or an anonymous id. `q` is looked for in the text of the call, in any case.

    Raises:
        RefusalError: a parameter has a value that none can have, or a name that no parameter has.
    """
    for name in parameters:
        if name not in PARAMETERS:
            hint = did_you_mean(name, PARAMETERS) or f"there are {', '.join(sorted(PARAMETERS))}"
            raise RefusalError(400, f"there is no such parameter as {name}: {hint}")
    parts: list[tuple[str, tuple[str | int, ...]]] = []
    for name, column in EQUAL.items():
        if parameters.get(name):
            parts.append((f"{column} = ?", (parameters[name],)))
    if parameters.get("outcome") and parameters["outcome"] not in list(CallOutcome):
        raise RefusalError(400, f"outcome must be one of {', '.join(CallOutcome)}")
    if after := number(parameters, "after"):
        parts.append(("seq > ?", (after,)))
    if (before := number(parameters, "before")) is not None:
        parts.append(("seq < ?", (before,)))
    if user := parameters.get("user"):
        parts.append(("(user_id = ? OR anonymous_id = ?)", (user, user)))
    if sought := parameters.get("q"):
        # A text with quotes stands in JSON with a backslash before each; JSON that is sought stands as it is.
        either = (sought.lower(), json.dumps(sought.lower(), ensure_ascii=False)[1:-1])
        parts.append(
            ("(contains(lower(body::VARCHAR), ?) OR contains(lower(body::VARCHAR), ?))", either)
            if either[0] != either[1]
            else ("contains(lower(body::VARCHAR), ?)", either[:1])
        )
    condition = " AND ".join(one for one, _ in parts)
    return CallFilter(condition or "true", tuple(value for _, values in parts for value in values))


def number(parameters: Mapping[str, str], name: str) -> int | None:
    """The whole number of a parameter; None where there is none.

    Raises:
        RefusalError: it is no whole number, or too long.
    """
    text = parameters.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) >= LONGEST_NUMBER:
        raise RefusalError(400, f"{name} must be a whole number")
    return int(text)
