"""The command `retl`, which `python -m retl` is as well."""

import atexit
import gc
import os
import signal
import sys

# Most objects of a short run belong to modules, and stay to its end. Python looks through them for garbage
# again and again, and once more at its exit, which took a tenth of a run without changes, or more.
gc.set_threshold(100_000)
atexit.register(gc.freeze)

# Until there is anything to end in good order, Ctrl-C ends the process without a trace of Python.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from retl.system import unloaded  # noqa: E402

# Without click there is no command line yet that could say so.
try:
    from retl.cli.main import main
except (ImportError, MemoryError, OSError) as error:
    failed = unloaded(error)
    print(f"error: retl cannot start: {failed}\n  → {failed.hint}", file=sys.stderr)
    sys.exit(failed.exit_code)

if __name__ == "__main__":
    main()
