import json

import numpy as np
import pytest
from delivery import fill, memory_state, rows, segment, send

from retl.delivery.batch import Batch
from retl.delivery.quoted import without_quotes
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

CALL = {
    "type": "identify",
    "userId": "u-4711",
    "traits": {"email": "jane.doe@example.com", "name": "Jane Doe", "age": 42, "plan": None, "vip": True},
    "context": {"library": {"name": "retl"}},
}


def batch(call: object) -> Batch:
    """A batch of one call."""
    text = json.dumps(call).encode()
    return Batch(0, np.array([1]), np.array([len(text)]), memoryview(text))


@pytest.mark.rule("L17")
@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("malformed JSON", "malformed JSON"),
        ('{"success":false,"message":"invalid email"}', '{"success":false,"message":"invalid email"}'),
        ("invalid identify of retl: is not true", "invalid identify of retl: is not true"),
        ("cannot take jane.doe@example.com", "cannot take ….…@….…"),
        ("CANNOT TAKE JANE.DOE@EXAMPLE.COM!", "CANNOT TAKE ….…@….…!"),
        ('user "u-4711" (Jane Doe, 42) is unknown', 'user "u-…" (… …, …) is unknown'),
        ("bad traits: {email: jane.doe@exa", "bad traits: {email: ….…@…"),
        (
            json.dumps(json.dumps(CALL["traits"])),
            r'"{\"email\": \"….…@….…\", \"name\": \"… …\", \"age\": …, \"plan\": null, \"vip\": true}"',
        ),
        ("email=jane%2Edoe%40example.com|JaneDoe|#Doe", "email=…%…%….…|…|#…"),
        ("amFuZS5kb2VAZXhhbXBsZS5jb20= 6a616e652e646f65 &#106;ane", "…= … &#106;…"),
        ("exceeds 32768 bytes", "exceeds 32768 bytes"),
    ],
)
def test_an_answer_is_shown_without_what_it_quotes(answer: str, shown: str) -> None:
    """Values of the calls are taken out of an answer, and its own words and the names of fields stay."""
    assert shown == without_quotes(answer, batch(CALL), 400)


def test_the_status_in_an_answer_is_shown() -> None:
    """A run says the answer's status anyway, so it is no secret, whatever digits an id has by chance."""
    call = batch({"messageId": "retl-1401f503"})
    assert "answered 401, not …" == without_quotes("answered 401, not 503", call, 401)


def test_a_call_that_cannot_be_looked_through_hides_the_answer() -> None:
    """Where quotes cannot be told from the answer's own words nothing is shown."""
    text = b"[" * 100_000 + b"]" * 100_000
    deep = Batch(0, np.array([1]), np.array([len(text)]), memoryview(text))
    assert "…" == without_quotes("bad: jane", deep, 400)


@pytest.mark.rule("L17")
def test_what_is_kept_of_a_refused_call_quotes_nothing() -> None:
    """Neither the error of a run nor the answer that the state keeps holds a value of a call."""
    refusal = Reply(400, body='{"success":false,"message":"u7 must not say Seen"}')
    replies = Sandbox(reply_if=lambda call: refusal if call["userId"] == "u7" else None)
    with memory_state() as state, replies as sandbox, segment(sandbox.url) as to:
        fill(state, 10, users=10)
        send(state, to)
        assert [('400 {"success":false,"message":"… must not say …"}',)] == rows(
            state, "SELECT answer FROM state.rejected_call"
        )
