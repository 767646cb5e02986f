"""What the library alone costs a session: picows bare, and our client over picows and over websockets.

pytest tests/load/test_client_cost.py -s

Each kind is a process against the same provider (`cheap_provider`), plain and with TLS, in turn for
ROUNDS rounds; the least of a kind counts, for other work on the machine only adds. A run that did not hear
the answers in time measured a machine that was busy, and is left out. `idle` is what the loop and the
pacing of the frames cost, and is taken off the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pki import TestAuthority

ROOT = Path(__file__).resolve().parents[2]
ANSWER_S = 3.0
"""The provider's answer after four seconds; a run sends two seconds more than it measures."""
CALLS = os.environ.get("PARLEY_BENCH_CALLS", "100")
SECONDS = os.environ.get("PARLEY_BENCH_SECONDS", "5")
ROUNDS = int(os.environ.get("PARLEY_BENCH_ROUNDS", "3"))
KINDS = ("idle", "bare", "picows", "websockets")


@contextmanager
def provider(*given: str) -> Iterator[int]:
    """A process that answers; gives its port."""
    command = [sys.executable, str(ROOT / "tests/support/cheap_provider.py"), *given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def measure(kind: str, url: str, *given: str) -> dict[str, Any]:
    """One run of one kind."""
    command = [sys.executable, str(ROOT / "tests/load/client_cost.py"), kind, url, *given]
    command += ["--calls", CALLS, "--seconds", SECONDS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_session_costs_little_more_than_its_frames(tls: bool, tmp_path: Path) -> None:
    served: list[str] = []
    used: list[str] = []
    if tls:
        folder = TestAuthority().issue("provider").write(tmp_path / "pki")
        served = ["--cert", str(folder / "tls.crt"), "--key", str(folder / "tls.key")]
        used = ["--ca", str(folder / "ca.crt")]
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with provider(*served) as port:
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"
        for _ in range(ROUNDS):
            for kind in KINDS:
                rows[kind].append(measure(kind, url, *used))
    heard = ANSWER_S * int(CALLS) * ((float(SECONDS) + 2) // 4) * 0.9
    busy = {kind: [row for row in rows[kind] if kind != "idle" and row["heard_s"] < heard] for kind in KINDS}
    for kind in KINDS:
        rows[kind] = [row for row in rows[kind] if row not in busy[kind]]
        assert rows[kind], f"the machine was busy in all runs of {kind}: try again when it is not"
    least = {kind: min(row["cpu_ms_per_session_s"] for row in rows[kind]) for kind in KINDS}
    net = {kind: round(least[kind] - least["idle"], 3) for kind in KINDS}
    print(f"\n{'tls' if tls else 'plain'}, {CALLS} calls, {SECONDS} s, the least of {ROUNDS} rounds")
    for kind in KINDS:
        memory = min(row["mib_per_session"] for row in rows[kind])
        shown = f"{net[kind]:8.3f} CPU ms per session-second{memory:8.3f} MiB per session"
        print(f"{kind:12}{shown}, {len(busy[kind])} runs left out")
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"client-cost-{'tls' if tls else 'plain'}.json").write_text(
        json.dumps({"net": net, "rows": rows, "left_out": busy})
    )
    assert net["picows"] < net["websockets"]
    assert net["picows"] < net["bare"] * 2
