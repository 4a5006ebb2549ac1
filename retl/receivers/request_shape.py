"""The requests of a receiver, as its data file has them: address, headers, and the shape of the body."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from retl.forms.form import Frozen


def in_a_list(written: object) -> object:
    """One text as a list of one."""
    return (written,) if isinstance(written, str) else written


class RequestShape(Frozen):
    """A request that a call brings.

    In its body `<call>` stands for the call as Segment passes it on, `<user>` or `<user.identifiers>` for
    what arrives of the user, or a part of it. A mapping with such a key has the members that stand below the
    key, with those that arrive over them. A member of a list that is `<event>`, or has that key, is there
    once for each event.
    """

    of: Annotated[tuple[str, ...], BeforeValidator(in_a_list)] = Field(
        description="Types of calls that bring it."
    )
    by: str = Field(description="Who sends it.")
    to: str
    method: Literal["POST"] = "POST"
    url: str = Field(description="In `<…>` what the customer has to know.")
    headers: dict[str, str] = Field(default={}, description="The same.")
    body: Any
    of_unread: bool = Field(
        default=False, description="Whether calls bring it that mean nothing to the receiver, too."
    )
    note: str | None = Field(default=None, description="What is not documented of it.")
