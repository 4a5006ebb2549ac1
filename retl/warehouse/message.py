"""A database's words for an error, without the values that it quotes from rows."""

import logging
import re
from typing import TYPE_CHECKING

from retl.address import Address, shown
from retl.errors import ModelError, WarehouseError
from retl.model import Model
from retl.warehouse.base import at_line

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_LOG = logging.getLogger("retl.warehouse")

_PAIRS = {"'": "'", '"': '"', "`": "`", "«": "»", "»": "«", "„": "“", "“": "”", "‚": "‘", "‘": "’"}  # noqa: RUF001
"""Signs that quote in messages of databases, in several languages."""


_ABOUT_SQL = re.compile(
    "compilation error|syntax error|does not exist|not found|unknown (column|table)|invalid identifier"
    "|unrecognized name|cannot be resolved|unresolved",
    re.IGNORECASE,
)
"""Words of messages about the SQL alone, which may have several lines."""

WHOLE_MESSAGE = "RETL_LOG_LEVEL=debug logs the database's whole message, with the values that it quotes."
"""The hint where something was left out."""


def model_error(model: Model, said: str, line: int | None) -> ModelError:
    """The error for a model whose SQL is to blame for what a database said about a line of it, if of one."""
    said = without_values(said, model)
    return ModelError(
        f"model {model.name}: {said}",
        where=at_line(model, line),
        hint=WHOLE_MESSAGE if "…" in said else None,
    )


def read_error(model: Model, said: str, url: "Address | URL") -> WarehouseError:
    """The error for a read that broke off, whatever the model's SQL is, with what was said about it."""
    address = f"{url.host} {url.database} {url.username}"
    said = without_values(said, model, address, numbers=False)
    return WarehouseError(
        f"model {model.name}: {said}", where=shown(url), hint="Nothing was changed; run it again."
    )


def log_message(model: Model, message: str) -> None:
    """Write a database's whole message to the log, at the level debug."""
    _LOG.debug("model %s: %s", model.name, message)


def without_values(message: str, model: Model, known: str = "", *, numbers: bool = True) -> str:
    """An error's message without what may come from a row.

    Quoted texts stay where the model's SQL has them, as names of columns and tables. What follows the first
    line goes, and so does what follows its last colon, unless the message is about the SQL. The log gets the
    whole message at the level debug.

    Args:
        message: the database's.
        model: whose SQL was executed.
        known: other words that may be quoted.
        numbers: whether numbers that the SQL does not have are left out as well.
    """
    log_message(model, message)
    known = f"{model.sql}\n{known}"
    plain = re.sub(r"\S*@\S*", "…", _without_quotes(message, known))
    if _ABOUT_SQL.search(plain):
        return plain.strip()
    line = re.sub(r"\)=\(.*\)", ")=(…)", plain.split("\n", 1)[0].strip())
    if not numbers:
        return line
    line = re.sub(r"(?<![\w.-])[-+]?\d([\d.,:/+-]*\d)?(?!\w)", lambda number: _kept(number[0], known), line)
    return re.sub(r"(?<!Error)(: +)([^:'\"`…]+)$", lambda end: end[1] + _kept(end[2], known), line)


def _kept(words: str, known: str) -> str:
    return words if _is_in(words, known) else "…"


def _without_quotes(message: str, known: str) -> str:
    """The message with `…` in place of what is quoted and not known; a value may hold quotes itself."""
    kept, place = "", 0
    while place < len(message):
        sign = message[place]
        if sign not in _PAIRS or message[place - 1 : place].isalnum():  # an apostrophe, as in: can't
            kept += sign
            place += 1
            continue
        closing = _PAIRS[sign]
        end = message.find(closing, place + 1)
        inside = message[place + 1 : end]
        # A value may hold the sign, too: then what stands before it is a name only by chance.
        is_odd = sign == closing and message.count(sign, place) % 2 == 1
        if end < 0 or is_odd or not re.match(r"[^\W\d]", inside) or not _is_in(inside, known):
            ends = [
                found.start() for found in re.finditer(rf"{closing}(?!\w)", message) if found.start() > place
            ]
            kept += f"{sign}…{closing}"
            place = ends[-1] + 1 if ends else len(message)
        else:
            kept += message[place : end + 1]
            place = end + 1
    return kept


def _is_in(text: str, known: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(text.strip())}(?!\w)", known, re.IGNORECASE))
