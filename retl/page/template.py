"""Templates: those of a page, and those that all pages share."""

from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING

from retl.lazy import lazy_module

if TYPE_CHECKING:
    import jinja2
else:
    jinja2 = lazy_module("jinja2")

SHARED = "page/"
"""How the names of those templates begin that all pages share."""


@cache
def template_text(package: str, name: str) -> str:
    """A file of the folder `templates` of a package; or one that all pages share, as `page/frame.html`."""
    if name.startswith(SHARED):
        package, name = "retl.page", name.removeprefix(SHARED)
    return resources.files(package).joinpath("templates", name).read_text(encoding="utf-8")


def style(package: str) -> str:
    """The style of a page: what all pages share, and after it the package's own."""
    return template_text(package, "page/style.css") + template_text(package, "style.css")


def environment(package: str) -> "jinja2.Environment":
    """The templates of a package. Each value is escaped where it is filled in; a missing one is an error."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(partial(template_text, package)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
