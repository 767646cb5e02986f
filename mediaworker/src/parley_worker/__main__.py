"""`python -m parley_worker`: a media worker, set up by environment variables."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager

from parley_worker import __version__, grpc_core
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
        code = _run(Settings.from_environ(os.environ))
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"parley-worker: {problem}\n")
        code = 2
    except OSError as error:
        sys.stderr.write(f"parley-worker: cannot start: {error}\n")
        code = 1
    sys.exit(code)


def _run(settings: Settings) -> int:
    """Run the worker; imports what it needs and no more: a supervisor carries no media."""
    grpc_core.prepare(os.environ)
    from parley_worker import process

    worker: AbstractAsyncContextManager[process.App]
    if settings.shards:
        from parley_worker.sharded import ShardedApp

        worker = ShardedApp(settings)
    else:
        from parley_worker.app import WorkerApp

        worker = WorkerApp(settings)
    return process.run(settings, process.serve(settings, worker))


if __name__ == "__main__":
    main()
