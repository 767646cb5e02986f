"""What the first socket would import can be imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from parley_realtime import transport
fast = "parley_realtime.transport.fast"
assert fast not in sys.modules and "encodings.idna" not in sys.modules
transport.preload({name!r})
print(fast in sys.modules, "encodings.idna" in sys.modules)
"""


@pytest.mark.parametrize(("name", "told"), [("picows", "True True"), ("websockets", "False True")])
def test_what_the_first_socket_needs_is_there_before_it(name: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == told
