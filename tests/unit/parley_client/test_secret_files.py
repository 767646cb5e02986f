"""What only its owner may read."""

from __future__ import annotations

import stat
from pathlib import Path

from parley_client.cli.sessions import _write_secret


def test_a_ticket_is_readable_by_its_owner_alone_also_in_a_file_that_was_there(tmp_path: Path) -> None:
    for name, before in (("new", None), ("old", "a longer text that was there before")):
        path = tmp_path / name
        if before is not None:
            path.write_text(before)
            path.chmod(0o644)
        _write_secret(path, "ticket")
        assert path.read_text() == "ticket"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_no_file_is_written_to_as_it_is() -> None:
    _write_secret(Path("/dev/null"), "ticket")
