"""Running a command's coroutine: signals, errors, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

import typer

from parley_client.errors import ParleyError

from .console import Output
from .exits import Exit, exit_of


def execute(output: Output, work: Callable[[], Awaitable[Exit]]) -> NoReturn:
    """Run `work` to its end and leave with its exit code.

    SIGINT and SIGTERM cancel it once, so that it cleans up. Errors of users become one line;
    PARLEY_DEBUG=1 shows the stack instead.
    """
    code = Exit.FAILED
    try:
        code = asyncio.run(_with_signals(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = Exit.INTERRUPTED
        output.error("interrupted", code)
    except ParleyError as error:
        if os.environ.get("PARLEY_DEBUG"):
            raise
        code = exit_of(error)
        output.error(str(error), code)
    except Exception as error:
        if os.environ.get("PARLEY_DEBUG"):
            raise
        output.error(f"unexpected {type(error).__name__}: {error} (PARLEY_DEBUG=1 shows where)", code)
    finally:
        output.close()
    raise typer.Exit(code)


async def _with_signals(work: Callable[[], Awaitable[Exit]]) -> Exit:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await task
