"""Which TCP congestion control is asked for."""

from __future__ import annotations

import pytest
from parley_worker.config import ConfigError, Settings
from parley_worker.transport.congestion import AUTO, SYSTEM, wanted


@pytest.mark.parametrize("systems", ["bbr", "bbr2", "bbr3"])
def test_bbr_is_not_left_to_carry_audio(systems: str) -> None:
    assert wanted(AUTO, systems) == ("cubic", "reno")


@pytest.mark.parametrize("systems", ["cubic", "reno", "dctcp", ""])
def test_what_else_a_system_uses_stays(systems: str) -> None:
    assert wanted(AUTO, systems) == ()


def test_what_was_asked_for_is_all_that_is_asked() -> None:
    assert wanted("reno", "bbr") == ("reno",)
    assert wanted("bbr", "cubic") == ("bbr",)
    assert wanted("cubic", "cubic") == ()
    assert wanted(SYSTEM, "bbr") == ()


def test_a_name_that_none_can_have_is_refused_by_its_variable() -> None:
    for name in ("cubic reno", "CUBIC", "a" * 16):
        with pytest.raises(ConfigError, match=r"PARLEY_WORKER_CONGESTION_CONTROL=.*tcp_available"):
            Settings.from_environ({"PARLEY_WORKER_CONGESTION_CONTROL": name})
    assert Settings.from_environ({}).congestion_control == AUTO
