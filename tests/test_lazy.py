"""Modules that are loaded when they are used."""

import subprocess
import sys
from pathlib import Path

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


INTERRUPTED = """
import sys
from retl import signals
from retl.errors import Interrupted
from retl.lazy import lazy_module

signals.listen()
try:
    lazy_module("outer").name
except Interrupted as error:
    print(error.exit_code, sys.modules["outer"].name, sys.modules["inner"].name)
"""


def test_a_signal_waits_until_a_module_is_loaded(tmp_path: Path) -> None:
    """Ctrl-C while a module loads another one ends the command when both are there whole."""
    outer = "from retl.lazy import lazy_module\nname = 'outer after ' + lazy_module('inner').name\n"
    (tmp_path / "outer.py").write_text(outer)
    inner = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsum(range(1000))\nname = 'inner'\n"
    (tmp_path / "inner.py").write_text(inner)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ("130 outer after inner inner\n", "") == (done.stdout, done.stderr)
