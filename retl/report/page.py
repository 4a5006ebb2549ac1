"""The page: sections as one HTML file."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from retl.lazy import lazy_module
from retl.page.template import environment, style, template_text
from retl.report import words
from retl.report.chart import outcomes_svg, trend_svg
from retl.report.section import Section
from retl.report.trend import Trend
from retl.version import __version__

if TYPE_CHECKING:
    import jinja2
    import markupsafe
else:
    jinja2 = lazy_module("jinja2")
    markupsafe = lazy_module("markupsafe")

OPEN_RUNS = 20
"""Runs that a section lists; earlier ones are folded."""


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        project: the name of the project folder.
        made_at: in UTC.
        days: how far back it goes.
        show_values: whether keys, user ids and calls are shown.
        rehearsal: whether it is about the sandbox.
        sections: one for each sync.
        orphans: one for each state that no sync file leads to.
    """

    project: str
    made_at: datetime
    days: int
    show_values: bool
    rehearsal: bool
    sections: Sequence[Section]
    orphans: Sequence[Section] = ()


def render(report: Report) -> str:
    """The report as an HTML page."""
    style_text, script = style("retl.report"), template_text("retl.report", "page.js")
    # No other style and no other script runs, and nothing is fetched: also not by what a name might hold.
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style_text)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            policy=policy,
            style=markupsafe.Markup(style_text),
            script=markupsafe.Markup(script),
            version=__version__,
            open_runs=OPEN_RUNS,
        )
    )


def _environment() -> "jinja2.Environment":
    templates = environment("retl.report")
    templates.filters.update(
        ago=words.ago,
        counted=words.counted,
        moment=words.moment,
        number=words.number,
        took=words.took,
        chart=_chart,
        quoted=_quoted,
        strip=_strip,
    )
    return templates


def _chart(trend: Trend) -> "markupsafe.Markup":
    return markupsafe.Markup(trend_svg(trend))


def _strip(trend: Trend) -> "markupsafe.Markup":
    return markupsafe.Markup(outcomes_svg(trend))


def _quoted(text: str) -> "markupsafe.Markup":
    """A text whose words in backticks are set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return markupsafe.escape(text)
    return markupsafe.Markup().join(
        markupsafe.Markup("<code>{}</code>").format(part) if place % 2 else part
        for place, part in enumerate(parts)
    )


def _hash(text: str) -> str:
    """The source expression of a Content Security Policy that allows just this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
