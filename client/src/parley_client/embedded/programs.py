"""The programs that embedded mode needs beside Python: where they are found and how they are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from parley_client.errors import MissingProgram

REMEDIES: Final = {
    "nats-server": "tests/support/cluster/build.sh nats-server  (or your system's package of nats-server)",
    "flite": "apt-get install flite  (or your system's package of flite)",
}


def cache_bin() -> Path:
    """Folder of programs that the project built for itself: `${PARLEY_CACHE:-~/.cache/parley}/bin`."""
    base = os.environ.get("PARLEY_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "parley") / "bin"


def find_program(name: str) -> str:
    """Return the path of a program: on PATH, beside this Python, or in the cache.

    Raises:
        MissingProgram: it is in none of them; the error names the command that installs it.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join([beside, str(cache_bin())]))
    if found is None:
        raise MissingProgram(name, REMEDIES.get(name, f"your system's package of {name}"))
    return found


def check_packages() -> None:
    """Raise MissingProgram when a Python package of embedded mode is missing, before anything is started."""
    for module in ("cryptography", "grpc_health", "prometheus_client", "uvloop", "websockets"):
        if importlib.util.find_spec(module) is None:
            raise MissingProgram(
                f"the Python package {module}", "pip install 'parley[client,operator,worker,local]'"
            )
