"""The chart of the bench: seconds as bars, for each peer a line, for each step a column; SVG by hand."""

from html import escape

from bench.peer import PEERS
from bench.peers.task import DELTA, FIRST, NOTHING
from bench.results import Setting

TITLES = {FIRST: "first run", NOTHING: "nothing changed", DELTA: "2 % changed"}
LABEL_WIDTH, COLUMN_WIDTH, GAP, LINE, TOP = 165, 200, 28, 26, 62
TEXT, MINE, THEIRS, LIMIT = "#6e7781", "#1f7ae0", "#9aa4af", "#c9a227"
"""Readable on white and on black, for an image does not know the colours of the page around it."""

VALUE_WIDTH = 52
"""Room for the figure right of the longest bar."""


def chart(setting: Setting) -> str:
    """The chart of a setting, as SVG."""
    right = [one for one in setting.found if one.figures and not one.problem]
    peers = [peer for peer in PEERS if any(one.peer == peer.name for one in right)]
    width = LABEL_WIDTH + len(TITLES) * COLUMN_WIDTH + (len(TITLES) - 1) * GAP
    height = TOP + len(peers) * LINE + 8
    where = {"duckdb": "DuckDB", "postgres": "Postgres"}[setting.warehouse]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}" role="img">',
        f"<title>{setting.rows:,} users from {where}: seconds from launch to exit</title>",
        text(0, 18, f"{setting.rows:,} users from {where}: seconds from launch to exit", bold=True),
    ]
    for number, peer in enumerate(peers):
        parts.append(text(0, TOP + number * LINE + 17, peer.title, bold=peer.name == "retl"))
    for column, (step, title) in enumerate(TITLES.items()):
        left = LABEL_WIDTH + column * (COLUMN_WIDTH + GAP)
        parts.append(text(left, 46, title))
        seconds = {
            one.peer: one.figures.wall_s
            for one in right
            if one.figures and (one.step == step or one.peer == "bare-read")
        }
        scale = (COLUMN_WIDTH - VALUE_WIDTH) / max(seconds.values(), default=1)
        for number, peer in enumerate(peers):
            top = TOP + number * LINE
            if peer.name in seconds:
                colour = LIMIT if peer.bare else MINE if peer.name == "retl" else THEIRS
                parts += bar(left, top, seconds[peer.name], scale, colour, bold=peer.name == "retl")
            elif not peer.bare:
                parts.append(text(left, top + 17, "the first run again", faint=True))
    return "\n".join([*parts, "</svg>"]) + "\n"


def bar(left: int, top: int, seconds: float, scale: float, colour: str, bold: bool) -> list[str]:
    """A bar, and its seconds beside it."""
    length = max(1.5, seconds * scale)
    rectangle = (
        f'<rect x="{left}" y="{top + 4}" width="{length:.1f}" height="{LINE - 9}" rx="2" fill="{colour}"/>'
    )
    return [rectangle, text(left + length + 6, top + 17, f"{seconds:.{0 if seconds >= 100 else 1}f}", bold)]


def text(x: float, y: float, words: str, bold: bool = False, faint: bool = False) -> str:
    """A line of text."""
    style = ' font-weight="600"' if bold else ' font-size="11"' if faint else ""
    return f'<text x="{x:.1f}" y="{y}"{style}>{escape(words)}</text>'
