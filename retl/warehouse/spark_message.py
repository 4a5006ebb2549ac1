"""The parts of an error's text as Spark and Databricks write it.

[TABLE_OR_VIEW_NOT_FOUND] The table or view `shop` cannot be found. SQLSTATE: 42P01; line 2 pos 14
"""

import re

from retl.address import Address, without_secrets

MODELS_STATES = ("0A", "21", "22", "23", "38", "39", "42", "54", "P0")
"""How SQLSTATE begins where the model's SQL, a value, or what it calls is to blame."""


def first_sentence(text: str, address: Address) -> str:
    """The server's sentence, or the client's, without what follows: the SQL, and where in Java it was."""
    details = re.search(r'^\s*details = "(.*)"', text, re.MULTILINE)
    sentence = details[1] if details else re.split(r"\s*SQLSTATE: |\n", text, maxsplit=1)[0]
    return without_secrets(re.sub(r"^\([\w.$]+\) ", "", sentence), address)


def line_in(text: str) -> int | None:
    """The line of the SQL (1-based) that a message points at."""
    found = re.search(r"(?:; |[ (]\()line (\d+),? pos", text)
    return int(found[1]) if found else None


def condition_in(text: str) -> str | None:
    """The name of what is wrong."""
    found = re.search(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]", text)
    return found[1] if found else None


def state_in(text: str) -> str | None:
    """The SQLSTATE."""
    found = re.search(r"SQLSTATE: (\w{5})", text)
    return found[1] if found else None
