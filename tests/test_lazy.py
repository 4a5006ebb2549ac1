"""Modules that are loaded when they are used."""

import pytest

from retl.errors import ConfigError
from retl.lazy import lazy_module


@pytest.mark.parametrize(
    ("extra", "hint"), [("report", "pip install 'retl[report]'"), (None, "install retl anew: pip install ")]
)
def test_a_missing_library_says_how_to_install_it(extra: str | None, hint: str) -> None:
    """The way out names the extra of retl that brings the library, where it is of one."""
    with pytest.raises(ConfigError) as raised:
        _ = lazy_module("no_such_library", extra=extra).name

    assert (raised.value.hint or "").startswith(hint)
