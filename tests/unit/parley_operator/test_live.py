"""A VoiceSession is changed while it runs, or after its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from parley_operator.api.changes import fixed_change
from parley_operator.domain.model import AdmitRequest, SessionState
from parley_operator.files import InvalidObject
from parley_operator.workers import codec
from reconcile_plane import HOSTS, NOW, POOL, PROVIDER, Plane

TOOL = {"type": "function", "name": "lamp", "route": {"nats": {}}}


async def live(**spec: Any) -> tuple[Plane, AdmitRequest]:
    plane = Plane()
    plane.links.add("w")
    await plane.apply(POOL, "default", HOSTS)
    await plane.session(agent={"provider": PROVIDER, "instructions": "x"}, **spec)
    await plane.look()
    (_, request), *_ = plane.links.admits
    plane.links.report("w", request, SessionState.ACTIVE)
    await plane.look()
    return plane, request


async def change(plane: Plane, **spec: Any) -> float | None:
    agent = {"provider": PROVIDER, "instructions": "x"}
    await plane.session(**{"agent": agent, **spec})
    return await plane.look()


def judged(plane: Plane, request: AdmitRequest, generation: int, refused: str = "") -> None:
    origin = replace(request.origin, generation=generation)
    plane.links.report("w", request, SessionState.ACTIVE, origin=origin, update_refused=refused)


async def test_the_worker_is_told_and_its_report_settles_it() -> None:
    plane, request = await live()
    assert plane.status()["observedGeneration"] == request.origin.generation == 1
    again = await change(plane, agent={"provider": PROVIDER, "instructions": "y", "tools": [TOOL]})
    assert again == 3.0
    ((worker, update),) = plane.links.updates
    assert (worker, update.generation, update.attempt) == ("w", 2, 1)
    assert '"instructions":"y"' in update.session_json
    assert [target.name for target in update.conduct.tools] == ["lamp"]
    assert plane.status()["observedGeneration"] == 1, "the worker has not judged it"
    judged(plane, request, 2)
    assert await plane.look() is None
    assert plane.status()["observedGeneration"] == 2
    assert plane.conditions()["Updated"] == ("True", "Applied")
    assert {c["observedGeneration"] for c in plane.status()["conditions"]} == {2}
    await plane.look()
    assert len(plane.links.updates) == 1


async def test_a_refusal_is_told_in_the_provider_s_words_and_the_session_goes_on() -> None:
    plane, request = await live()
    await change(plane, session={"tool_choice": "nonsense"})
    judged(plane, request, 2, "the provider refused the update: no such choice")
    await plane.look()
    (updated,) = [c for c in plane.status()["conditions"] if c["type"] == "Updated"]
    assert (updated["status"], updated["reason"], updated["observedGeneration"]) == ("False", "Refused", 2)
    assert "no such choice" in updated["message"]
    assert plane.conditions()["Ready"][0] == "True"
    # What is written next is judged anew.
    await change(plane, session={"tool_choice": "auto"})
    assert plane.links.updates[-1][1].generation == 3
    judged(plane, request, 3)
    await plane.look()
    assert plane.conditions()["Updated"] == ("True", "Applied")


async def test_a_spec_that_breaks_a_rule_is_not_even_sent() -> None:
    plane, _ = await live()
    webhook = {"webhook": {"url": "https://elsewhere.example/f"}}
    bad = {"provider": PROVIDER, "instructions": "x", "tools": [{**TOOL, "route": webhook}]}
    assert await change(plane, agent=bad) == 5.0
    assert plane.links.updates == []
    assert plane.conditions()["Updated"] == ("False", "HostNotAllowed")
    assert plane.status()["phase"] == "Active"
    writes = len(plane.store.status_writes)
    await plane.look()
    assert len(plane.store.status_writes) == writes, "nothing changed, nothing is written"


async def test_a_change_that_is_refused_takes_no_other_news_back() -> None:
    plane, request = await live()
    plane.links.report("w", request, SessionState.ACTIVE, recovery_degraded=True)
    webhook = {"webhook": {"url": "https://elsewhere.example/f"}}
    await change(plane, agent={"provider": PROVIDER, "tools": [{**TOOL, "route": webhook}]})
    assert plane.conditions()["Updated"] == ("False", "HostNotAllowed")
    assert plane.conditions()["RecoveryDegraded"] == ("True", "JournalLate")


async def test_an_operator_that_restarts_tells_it_again() -> None:
    plane, _ = await live()
    await change(plane, limits={"maxDuration": "2h"})
    await plane.restart()
    await plane.look()
    assert [update.generation for _, update in plane.links.updates] == [2, 2]
    assert plane.links.updates[0][1].limits.max_duration == 7200


async def test_a_worker_that_reports_no_generation_is_left_alone() -> None:
    plane, request = await live()
    plane.links.report("w", request, SessionState.ACTIVE, origin=replace(request.origin, generation=0))
    await change(plane, session={"tool_choice": "auto"})
    assert plane.links.updates == []


async def test_conditions_of_a_session_that_is_over_follow_its_generation() -> None:
    plane, request = await live()
    plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup", end_time=NOW)
    await plane.look()
    assert plane.conditions()["Ended"] == ("True", "CallerHangup")
    assert plane.conditions()["Ready"] == ("False", "CallerHangup")
    await change(plane, ttlSecondsAfterFinished=3600)
    assert plane.status()["observedGeneration"] == 2
    assert {c["observedGeneration"] for c in plane.status()["conditions"]} == {2}
    assert plane.links.updates == []


async def test_what_others_say_of_a_session_stays() -> None:
    plane, request = await live()
    foreign = {"type": "example.com/Billed", "status": "True", "reason": "Paid", "message": ""}
    body: Any = plane.store.peek("VoiceSession", "default", "call")
    body["status"]["conditions"].append(foreign)
    seen = await plane.store.patch_status("VoiceSession", body, {"conditions": body["status"]["conditions"]})
    assert seen is not None
    plane.reconciler.observe("VoiceSession", seen)
    plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup", end_time=NOW)
    await plane.look()
    assert foreign in plane.status()["conditions"]
    await change(plane, ttlSecondsAfterFinished=3600)
    assert foreign in plane.status()["conditions"]


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ({"limits": {}}, {"limits": {"maxDuration": "1h"}, "session": {"a": 1}}, ""),
        ({"agent": {"instructions": "x"}}, {"agent": {"instructions": "y", "tools": []}}, ""),
        ({"agent": {"voice": "a"}}, {"agent": {"voice": "b"}}, "agent.voice"),
        ({"agent": {}}, {"agentRef": {"name": "a"}}, "agent"),
        ({}, {"privacy": True}, "privacy"),
    ],
)
def test_what_can_be_changed(before: Any, after: Any, field: str) -> None:
    assert fixed_change(before, after) == field


async def test_the_store_of_files_holds_fast_what_the_definition_does() -> None:
    plane, _ = await live()
    with pytest.raises(InvalidObject, match=r"spec\.agent\.voice: cannot be changed"):
        await plane.session(agent={"provider": PROVIDER, "instructions": "x", "voice": "ash"})


async def test_the_message_to_the_worker_holds_everything() -> None:
    plane, _ = await live()
    limits = {"idleTimeout": "7s"}
    await change(plane, agent={"provider": PROVIDER, "instructions": "y", "tools": [TOOL]}, limits=limits)
    message = codec.update_message(plane.links.updates[0][1], 5)
    asked = message.reconfigure
    assert (message.fence.leader_epoch, message.fence.worker_instance_id) == (5, "w-1")
    assert (asked.generation, asked.limits.idle_timeout.seconds) == (2, 7)
    assert [(tool.name, tool.WhichOneof("route")) for tool in asked.tools] == [("lamp", "nats")]


async def test_after_a_lost_worker_the_new_configuration_holds() -> None:
    plane, request = await live(recovery={"policy": "Restart"})
    await change(plane, session={"tool_choice": "auto"}, recovery={"policy": "Restart"})
    judged(plane, request, 2)
    await plane.look()
    plane.links.remove("w")
    plane.links.add("second")
    for _ in range(4):
        await plane.look()
    worker, again = plane.links.admits[-1]
    assert (worker, again.attempt, again.origin.generation) == ("second", 2, 2)
    assert '"tool_choice":"auto"' in again.session_json
    plane.links.report("second", again, SessionState.ACTIVE)
    plane.clock.at += 1
    await plane.look()
    assert plane.conditions()["Updated"] == ("True", "Applied")
    assert plane.links.updates[-1][1].generation == 2, "no further update was needed"
