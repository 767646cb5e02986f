"""`python -m parley_worker`: a media worker, set up by environment variables."""

from __future__ import annotations

import os
import sys

from parley_worker import __version__
from parley_worker.config import ConfigError, Settings, help_text


def main() -> None:
    """Parse, run, exit: 0 ended as asked, 1 failed, 2 wrong settings."""
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(help_text() + "\n")
        sys.exit(0)
    if arguments == ["--version"]:
        sys.stdout.write(f"parley-worker {__version__}\n")
        sys.exit(0)
    if arguments:
        sys.stderr.write(f"{' '.join(arguments)}: no such option\n\n{help_text()}\n")
        sys.exit(2)
    try:
        settings = Settings.from_environ(os.environ)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"parley-worker: {problem}\n")
        sys.exit(2)
    from parley_worker.app import run

    try:
        code = run(settings)
    except OSError as error:
        sys.stderr.write(f"parley-worker: cannot start: {error}\n")
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
