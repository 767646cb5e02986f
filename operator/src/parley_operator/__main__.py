"""`python -m parley_operator`: reads the settings, runs the operator."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

import uvloop

from . import __version__
from .config import ConfigError, help_text, load_settings
from .kube.login import LoginError, find_login
from .telemetry.logging import set_up_logging


def main() -> int:
    """Exit codes: 0 ended as asked, 1 failed, 2 settings are wrong."""
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(help_text() + "\n")
        return 0
    if arguments == ["--version"]:
        sys.stdout.write(f"parley-operator {__version__}\n")
        return 0
    if arguments:
        sys.stderr.write(f"unknown argument {arguments[0]!r}; see --help\n")
        return 2
    try:
        settings = load_settings(os.environ)
        login = find_login(os.environ)
    except (ConfigError, LoginError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    set_up_logging(settings.log_level, settings.log_format)
    # Imported late, since kopf and gRPC take their time and --help needs neither.
    from .app import run

    # Most of what there is lives as long as the process or a session: looking through it is seldom worth it.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(settings, login))
    return 0


if __name__ == "__main__":
    sys.exit(main())
