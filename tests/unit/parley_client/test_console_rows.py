"""Tables are as wide as their words, whatever the terminal's width."""

from __future__ import annotations

import pytest
from parley_client.cli.console import PlainOutput


def test_no_name_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long = "a-session-with-a-name-that-is-longer-than-any-terminal-of-forty-columns"
    PlainOutput().rows("session", ["namespace", "name", "phase"], [["phones", long, "Completed"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAMESPACE", "NAME", "PHASE"]
    assert lines[1].split() == ["phones", long, "Completed"]
    assert len(lines) == 2
