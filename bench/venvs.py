"""The environments that the peers are installed in, each apart from retl and from the others."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VENVS = ROOT / ".venv"


class NotInstalledError(Exception):
    """A peer's packages cannot be had here; the message is the last thing that pip said."""


def python_of(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages, made when it is first asked for.

    Raises:
        NotInstalledError: pip fails.
    """
    folder = VENVS / f"bench-{name}"
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", *quiet, *requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise NotInstalledError(lines[-1] if lines else f"{' '.join(command)} failed")
    stamp.write_text(wanted)
    return python


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of packages in an environment; those that are not there are left out."""
    code = (
        "import sys, importlib.metadata as m\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: pass"
    )
    found = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)
    return dict(line.split() for line in found.stdout.splitlines())
