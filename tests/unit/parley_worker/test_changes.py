"""Which of the changes that a session went through hold on when its specification is given anew."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from parley_worker.core import events as ev
from parley_worker.core.changes import Changes, changed
from parley_worker.core.model import RestoreConfig, RestoreMode, Wanted
from parley_worker.core.restored import JournalRecord, from_hand_over, from_journal
from parley_worker.core.saved import HandOver
from parley_worker.runtime.restoring import Restorer
from session_driver import KEY, Driver

SPEC: dict[str, Any] = {
    "type": "realtime",
    "instructions": "first",
    "audio": {
        "input": {"turn_detection": {"type": "server_vad", "threshold": 0.5}},
        "output": {"voice": "a"},
    },
    "tools": [{"type": "mcp", "server_label": "s", "authorization": "key"}],
}


def talked() -> Driver:
    """A session whose caller asked for another voice, and whose specification was changed to `second`."""
    driver = Driver(session=SPEC).ready()
    driver.attach()
    update = {"audio": {"output": {"voice": "b"}}, "tool_choice": "none"}
    driver.said(ev.ClientEvent({"type": "session.update", "session": update}))
    driver.provider("session.updated", session={})
    config = driver.session.config
    driver.feed(ev.ConfigChanged(Wanted(2, {**SPEC, "instructions": "second"}, (), config.limits)))
    driver.provider("session.updated", session={})
    return driver


def journal(driver: Driver) -> list[JournalRecord]:
    """As another worker reads it."""
    return [JournalRecord(1, number, kind, f) for number, (kind, f) in enumerate(driver.journal(), 1)]


@pytest.mark.parametrize("by_hand", [True, False])
def test_the_specification_of_today_is_not_overwritten_by_an_older_one(by_hand: bool) -> None:
    driver = talked()
    given = HandOver.read(driver.session.hand_over((), driver.now).write())
    restored = from_hand_over(given) if by_hand else from_journal(journal(driver), ga=True)
    same = restored.changes.still({**SPEC, "instructions": "second"})
    assert same.session["instructions"] == "second"
    later = restored.changes.still({**SPEC, "instructions": "third"})
    assert "instructions" not in later.session
    assert later.session["audio"] == {"output": {"voice": "b"}}
    assert later.session["tool_choice"] == "none"


def test_what_the_caller_asked_for_goes_where_the_specification_was_changed_since() -> None:
    changes = from_journal(journal(talked()), ga=True).changes
    audio = {**SPEC["audio"], "output": {"voice": "c"}}
    assert "audio" not in changes.still({**SPEC, "audio": audio}).session
    assert "tool_choice" not in changes.still({**SPEC, "tool_choice": "required"}).session


async def test_a_worker_that_takes_over_asks_for_the_newest() -> None:
    driver = talked()
    hand_over = driver.session.hand_over((), driver.now)
    restore = RestoreConfig(RestoreMode.RESUME, hand_over=hand_over)
    spec = {**SPEC, "instructions": "third"}
    config = Driver(key=replace(KEY, attempt=2), restore=restore, session=spec).session.config
    restored = await Restorer().restore(config)
    assert restored is not None
    taking = Driver(key=replace(KEY, attempt=2), restore=restore, session=spec)
    taking.feed(ev.ConversationRestored(restored))
    effects = taking.feed(ev.ProviderOpened("client", "socket"))
    (update,) = [e.event for e in effects if hasattr(e, "event") and e.event["type"] == "session.update"]
    assert update["session"]["instructions"] == "third"
    assert update["session"]["audio"]["output"] == {"voice": "b"}
    assert update["session"]["tools"] == SPEC["tools"]


def test_keys_are_no_part_of_what_is_compared() -> None:
    tools = [{"type": "mcp", "server_label": "s"}]
    changes = changed({"tools": []}, SPEC)
    assert "key" not in json.dumps(changes.under)
    assert changes.still({**SPEC, "tools": [{**tools[0], "authorization": "new"}]}).session == {"tools": []}
    assert changes.still({**SPEC, "tools": [*tools, {"type": "function", "name": "f"}]}).session == {}


def test_objects_that_providers_replace_whole_are_compared_whole() -> None:
    update = {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.9}}}}
    changes = changed(update, SPEC)
    assert changes.still(SPEC).session == update
    other = {"input": {"turn_detection": {"type": "semantic_vad"}}}
    assert changes.still({**SPEC, "audio": other}).session == {}


def test_a_change_of_a_worker_that_wrote_no_digests_holds_on() -> None:
    assert Changes({"instructions": "x"}).still(SPEC).session == {"instructions": "x"}
