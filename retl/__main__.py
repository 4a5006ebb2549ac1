"""The command `retl`, which `python -m retl` is as well."""

import os
import signal
import sys

# Until there is anything to end in good order, Ctrl-C ends the process without a trace of Python.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from retl.errors import ConfigError  # noqa: E402
from retl.system import system_error  # noqa: E402

# The libraries need some 500 MB of addresses to load; without them there is no console yet.
try:
    from retl.cli.main import main
except (ImportError, MemoryError, OSError) as error:
    failed = system_error(error) or ConfigError(
        "a library is missing or broken", hint="install retl anew: pip install --force-reinstall retl"
    )
    print(f"error: retl cannot start: {failed} ({error})\n  → {failed.hint}", file=sys.stderr)
    sys.exit(failed.exit_code)

if __name__ == "__main__":
    main()
