"""HTML: the templates of the page, and the answer that holds one of them filled in."""

import json
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from retl.lazy import lazy_module
from retl.page.template import environment, style, template_text
from retl.sandbox.ingestion import TYPES
from retl.sandbox.page import words
from retl.sandbox.page.json_text import pretty_parts
from retl.sandbox.page.reasons import reason_in_words
from retl.sandbox.routes import PageAnswer

if TYPE_CHECKING:
    import jinja2
    import markupsafe
else:
    jinja2 = lazy_module("jinja2")
    markupsafe = lazy_module("markupsafe")

PACKAGE = "retl.sandbox.page"

HEADERS = MappingProxyType(
    {
        # No style, script or picture but those of the sandbox itself, also none that a value of a call holds.
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        # With no referrer at all a form would send the Origin `null`, which is refused as a foreign one.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
"""Headers of each answer of the page, beside those that every answer of the sandbox has."""

FILES = MappingProxyType(
    {"style.css": "text/css", "script.js": "text/javascript", "icon.svg": "image/svg+xml"}
)
"""Files that the page loads, each with its type."""


def filled(template: str, status: int = 200, **values: Any) -> PageAnswer:
    """A template with its values, each of which is escaped."""
    text = _environment().get_template(template).render(**values)
    return PageAnswer(text, "text/html; charset=utf-8", status, HEADERS)


def led_to(address: str) -> PageAnswer:
    """The answer to a form: the browser goes on to another page."""
    return PageAnswer("", "text/plain", 303, {**HEADERS, "Location": address})


def file_answer(name: str) -> PageAnswer:
    """One of the files that the page loads."""
    text = style(PACKAGE) if name == "style.css" else template_text(PACKAGE, name)
    return PageAnswer(text, f"{FILES[name]}; charset=utf-8", 200, HEADERS)


@cache
def _environment() -> "jinja2.Environment":
    templates = environment(PACKAGE)
    templates.globals.update(known_types=TYPES, today=words.today)
    templates.filters.update(
        arrives=words.arrives,
        clock=words.clock,
        counted=words.counted,
        day=words.day,
        glimpse=words.glimpse,
        iso=words.iso,
        milliseconds=words.milliseconds,
        json=_json,
        json_parts=_json_parts,
        moment=words.moment,
        number=words.number,
        reason=reason_in_words,
        short=words.short,
        stretch=words.stretch,
        **{"with": _with},
    )
    return templates


def _with(path: str, **parameters: Any) -> str:
    """An address with parameters; one that is None is left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _json(value: Any) -> "markupsafe.Markup":
    """A value as JSON, laid out, each part in the colour of its kind."""
    return _json_parts(json.dumps(value, ensure_ascii=False))


def _json_parts(text: str) -> "markupsafe.Markup":
    """A text that is JSON, in the same way."""
    return markupsafe.Markup().join(
        markupsafe.Markup('<span class="j-{}">{}</span>').format(part.kind, part.text)
        if part.kind
        else part.text
        for part in pretty_parts(text)
    )
