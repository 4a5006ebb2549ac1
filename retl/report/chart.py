"""Charts: a trend as SVG, drawn by Vega-Lite from the descriptions in `charts/`.

Vega-Lite runs inside `vl_convert`, which asks no network for anything. Colours in the SVG are variables of
the page's style, so that one picture serves a light and a dark page.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from retl.lazy import lazy_module
from retl.report.trend import Shape, Trend

if TYPE_CHECKING:
    import vl_convert
else:
    vl_convert = lazy_module("vl_convert", extra="report")

VEGA_LITE = "5.20"
"""The version of Vega-Lite that the descriptions are written for."""

FEWEST_PLACES = 24
"""Places for bars in a chart; where there are fewer bars, places at the left stay empty."""

LABELS = 4
"""Labels below a chart, at most."""

APART = 3
"""Places from a label to the next, at least; nearer ones would touch."""


def trend_svg(trend: Trend) -> str:
    """A trend as an SVG element, whose text alternative is to be given around it."""
    return _svg(trend, "area" if trend.shape is Shape.AREA else "bars")


def outcomes_svg(trend: Trend) -> str:
    """The row of outcomes as an SVG element, without axes, to be stretched to any width."""
    return _svg(trend, "outcomes").replace("<svg ", '<svg preserveAspectRatio="none" ', 1)


def _svg(trend: Trend, kind: str) -> str:
    count = len(trend.labels)
    description = _described(kind)
    x = description["encoding"]["x"]
    x["scale"]["domain"] = list(range(count - max(count, FEWEST_PLACES), count))
    if x["axis"]:
        x["axis"]["values"] = _labelled(trend.labels)
        description["params"] = [
            {"name": "labels", "value": {str(place): label for place, label in enumerate(trend.labels)}}
        ]
    if trend.shape is Shape.BARS:
        description["layer"][0]["encoding"]["color"]["scale"] = {
            "domain": [one.name for one in trend.series],
            "range": [f"var(--{one.color})" for one in trend.series],
        }
    if kind != "outcomes" and all(value == round(value) for value in _known(trend)):
        description["layer"][0]["encoding"]["y"]["axis"]["tickMinStep"] = 1
    description["datasets"] = {"values": _values(trend), "bars": _bars(trend.says)}
    svg = vl_convert.vegalite_to_svg(description, vl_version=VEGA_LITE, config=_described("config"))
    return _shortened(svg)


@cache
def _text(name: str) -> str:
    return resources.files("retl.report").joinpath("charts", f"{name}.json").read_text(encoding="utf-8")


def _described(name: str) -> dict[str, Any]:
    """A description, to be completed."""
    described: dict[str, Any] = json.loads(_text(name))
    return described


def _values(trend: Trend) -> list[dict[str, Any]]:
    return [
        {"place": place, "series": one.name, "order": order, "value": value}
        for order, one in enumerate(trend.series)
        for place, value in enumerate(one.values)
        if value or trend.shape is Shape.AREA
    ]


def _known(trend: Trend) -> Iterator[float]:
    return (value for one in trend.series for value in one.values if value is not None)


def _bars(says: Sequence[str]) -> list[dict[str, Any]]:
    return [{"place": place, "says": text} for place, text in enumerate(says)]


def _labelled(texts: Sequence[str]) -> list[int]:
    """The places that have a label: the last, and with room the first and others; of equal ones the last."""
    count = len(texts)
    labels = 1 if count < APART + 1 else min(LABELS, 2 + (count - 1) // 8)
    if labels == 1:
        return [count - 1]
    places = {round(step * (count - 1) / (labels - 1)) for step in range(labels)}
    return sorted({texts[place]: place for place in sorted(places)}.values())


def _shortened(svg: str) -> str:
    """An SVG without sizes of its own, and without the digits that nobody sees."""
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version|class|xmlns(:xlink)?)="[^"]*"', "", head)
    rest = re.sub(
        r' (role|aria-roledescription|aria-hidden|pointer-events|stroke-miterlimit)="[^"]*"', "", rest
    )
    rest = rest.replace(' aria-label="', ' data-says="')  # a part of a picture has no label of its own
    return f"{head}>" + re.sub(r'(?<= d=")[^"]*|(?<= transform=")[^"]*', _rounded, rest)


def _rounded(digits: re.Match[str]) -> str:
    return re.sub(r"\d+\.\d{2,}", lambda one: f"{float(one[0]):.1f}", digits[0])
