"""What a thread wanted of its CPU: more the more it does, nothing while it sleeps."""

from __future__ import annotations

import os
import time
from unittest import mock

from parley_worker.telemetry.own_time import wanted_seconds


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_work_counts_and_sleep_does_not() -> None:
    before = wanted_seconds()
    spin(0.05)
    worked = wanted_seconds()
    assert worked - before >= 0.04
    time.sleep(0.2)
    assert wanted_seconds() - worked < 0.15


def test_where_linux_tells_no_wait_it_is_the_time_that_the_thread_ran() -> None:
    with mock.patch.object(os, "open", side_effect=FileNotFoundError):
        assert abs(wanted_seconds() - time.thread_time()) < 0.01
    with mock.patch.object(os, "read", return_value=b"no numbers"):
        assert abs(wanted_seconds() - time.thread_time()) < 0.01
