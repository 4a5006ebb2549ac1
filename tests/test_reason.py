"""Reason codes, each with its meaning."""

from retl.reason import Reason


def test_a_reason_is_its_code() -> None:
    """A code from the state leads to its reason, which is equal to the code and has a meaning."""
    reason = Reason("no_id")

    assert reason is Reason.NO_ID
    assert "no_id" == reason == f"{reason}"
    assert "user id and anonymous id are both null" == reason.meaning
