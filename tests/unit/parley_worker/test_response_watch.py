"""A response that never finishes ends by a deadline, whatever the provider does; in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from parley_worker.core.model import EndReason, LimitsConfig, SessionState
from parley_worker.core.response_watch import CALLING_PATIENCE, CANCELLED_SECONDS, SILENT_SECONDS
from session_driver import Driver, sent

LIMITS = LimitsConfig(max_duration=3600, idle_timeout=1000, attach_timeout=30, reattach_timeout=20)


@pytest.fixture
def driver() -> Driver:
    driver = Driver(limits=LIMITS).ready()
    driver.attach()
    driver.provider("response.created", response={"id": "r"})
    return driver


def ended(driver: Driver) -> EndReason | None:
    return driver.session.report.end_reason


def test_a_silent_response_is_cancelled_and_then_the_provider_is_given_up(driver: Driver) -> None:
    begun = driver.now
    assert sent(driver.until(begun + SILENT_SECONDS - 0.1), "response.cancel") == []
    assert sent(driver.until(begun + SILENT_SECONDS), "response.cancel") == [{"type": "response.cancel"}]
    assert sent(driver.until(begun + SILENT_SECONDS + CANCELLED_SECONDS - 0.1), "response.cancel") == []
    assert ended(driver) is None
    driver.until(begun + SILENT_SECONDS + CANCELLED_SECONDS)
    assert ended(driver) is EndReason.PROVIDER_UNAVAILABLE
    assert "neither finished nor cancelled" in driver.session.report.end_message


def test_what_comes_keeps_it_alive_audio_too(driver: Driver) -> None:
    for step in range(10):
        driver.until(driver.now + SILENT_SECONDS - 1)
        if step % 2:
            driver.provider("response.output_audio_transcript.delta", item_id="i", delta="a")
        else:
            driver.session.ledger.received(("i", 0), 1, 20, driver.now)
    assert sent(driver.effects, "response.cancel") == []
    assert ended(driver) is None


def test_a_provider_that_ends_it_after_the_cancellation_goes_on(driver: Driver) -> None:
    driver.until(driver.now + SILENT_SECONDS)
    driver.provider("response.done", response={"id": "r", "status": "cancelled"})
    driver.until(driver.now + 300)
    assert driver.session.state is SessionState.ACTIVE
    assert len(sent(driver.effects, "response.cancel")) == 1


def test_a_provider_that_knows_of_no_response_goes_on_and_is_asked_again(driver: Driver) -> None:
    driver.until(driver.now + SILENT_SECONDS)
    driver.provider("error", error={"code": "response_cancel_not_active", "message": "no"})
    driver.until(driver.now + 300)
    assert driver.session.state is SessionState.ACTIVE
    assert len(sent(driver.effects, "response.cancel")) == 1


def test_a_tool_of_the_provider_gets_more_time(driver: Driver) -> None:
    driver.provider("response.mcp_call.in_progress", item_id="mcp_1", output_index=0)
    began = driver.now
    assert sent(driver.until(began + SILENT_SECONDS * CALLING_PATIENCE - 0.1), "response.cancel") == []
    assert len(sent(driver.until(began + SILENT_SECONDS * CALLING_PATIENCE), "response.cancel")) == 1


def test_an_idle_session_is_watched_for_nothing() -> None:
    driver = Driver(limits=replace(LIMITS, idle_timeout=500)).ready()
    driver.attach()
    driver.until(driver.now + 400)
    assert sent(driver.effects, "response.cancel") == []
    assert driver.session.state is SessionState.ACTIVE
