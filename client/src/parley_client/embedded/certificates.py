"""Certificates of one embedded run, by the operator's own authority; the CA's key is never written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from parley_operator.pki import KeyPair

WORKER_NAME: Final = "worker.parley.local"


def write_server_files(folder: Path, ca: KeyPair, name: str, now: float) -> None:
    """Write `ca.crt`, `tls.crt` and `tls.key` of a server for this user alone. `now`: Unix seconds."""
    from parley_operator.pki import issue_server

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    pair = issue_server(ca, name, now)
    for file, data in (("ca.crt", ca.certificate), ("tls.crt", pair.certificate), ("tls.key", pair.key)):
        path = folder / file
        path.touch(mode=0o600)
        path.write_bytes(data)
