"""Sessions keep the state of the agent that they started with; a canary gets its share."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from parley_operator.api.constants import AGENT, LABEL_AGENT, REVISION
from parley_operator.api.fields import FieldError
from parley_operator.api.v1alpha1 import parse_agent_spec
from parley_operator.domain.canary import canary_gets, chosen_agent, revision_of, superfluous
from parley_operator.domain.model import AdmitRequest, SessionState
from parley_operator.domain.subjects import subject_of
from parley_operator.handlers.plans import gather_plan
from parley_operator.handlers.queue import Key
from parley_operator.ports import Refused
from reconcile_plane import HOSTS, POOL, PROVIDER, SESSION, Plane

STABLE = {"provider": PROVIDER, "instructions": "one"}


async def plane_with(**agents: Any) -> Plane:
    plane = Plane()
    plane.links.add("w", capacity=200)
    await plane.apply(POOL, "default", HOSTS)
    for name, spec in agents.items():
        await plane.apply(AGENT, name, spec)
    return plane


async def placed(plane: Plane, name: str = "call", agent: str = "desk") -> AdmitRequest:
    await plane.apply(SESSION, name, {"agentRef": {"name": agent}})
    await plane.look(name)
    request = plane.links.admits[-1][1]
    plane.links.report("w", request, SessionState.ACTIVE)
    await plane.look(name)
    return request


async def test_a_session_is_placed_again_as_what_it_was() -> None:
    plane = await plane_with(desk=STABLE)
    request = await placed(plane)
    agent = plane.status()["agent"]
    assert agent == {"name": "desk", "revision": request.origin.agent_revision, "generation": 1}
    kept: Any = plane.store.peek(REVISION, "default", agent["revision"])
    assert kept["data"]["spec"]["instructions"] == "one"
    assert kept["metadata"]["ownerReferences"][0]["name"] == "desk"
    await plane.apply(AGENT, "desk", {**STABLE, "instructions": "two"})
    # Another process, which must find it in the object.
    await plane.restart()
    body: Any = plane.store.peek(SESSION, "default", "call")
    plan: Any = await gather_plan(plane.context, subject_of(body)[0])
    assert '"instructions":"one"' in plan.session_json
    assert plan.origin.agent_revision == agent["revision"]
    fresh = await placed(plane, "later")
    assert '"instructions":"two"' in fresh.session_json
    assert plane.status("later")["agent"]["generation"] == 2


async def test_a_revision_that_is_gone_costs_no_call() -> None:
    plane = await plane_with(desk=STABLE)
    await placed(plane)
    await plane.apply(AGENT, "desk", {**STABLE, "instructions": "two"})
    for body in await plane.store.list(REVISION):
        await plane.store.delete(REVISION, "default", body["metadata"]["name"], "")  # type: ignore[index]
    await plane.restart()
    plane.links.workers["w"] = replace(plane.links.workers["w"], sessions={})
    plane.clock.at += 20
    await plane.apply(SESSION, "other", {"agentRef": {"name": "desk"}})
    await plane.look("other")
    assert '"instructions":"two"' in plane.links.admits[-1][1].session_json


async def test_without_the_right_to_keep_revisions_calls_go_on() -> None:
    plane = await plane_with(desk=STABLE)

    def forbid(verb: str, kind: str) -> None:
        if kind == REVISION:
            raise Refused("forbidden")

    plane.store.before = forbid
    await placed(plane)
    assert plane.status()["phase"] == "Active"


async def test_sessions_that_come_together_keep_their_agent_once() -> None:
    plane = await plane_with(desk=STABLE)
    written: list[str] = []
    create = plane.store.create

    async def slowly(kind: str, body: Any) -> Any:
        if kind == REVISION:
            written.append(kind)
            await asyncio.sleep(0.01)
        return await create(kind, body)

    plane.store.create = slowly  # type: ignore[method-assign]
    names = [f"call-{number}" for number in range(5)]
    for name in names:
        await plane.apply(SESSION, name, {"agentRef": {"name": "desk"}})
    await asyncio.gather(*(plane.look(name) for name in names))
    assert len(plane.links.admits) == 5
    assert written == [REVISION]


async def test_old_revisions_go_but_none_in_use() -> None:
    plane = await plane_with(desk={**STABLE, "revisionHistoryLimit": 1})
    await placed(plane, "first")
    for number in range(4):
        spec = {**STABLE, "instructions": str(number), "revisionHistoryLimit": 1}
        await plane.apply(AGENT, "desk", spec)
        request = await placed(plane, f"short-{number}")
        plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup")
        await plane.look(f"short-{number}")
    kept = {b["data"]["spec"]["instructions"] for b in await plane.store.list(REVISION)}  # type: ignore[index]
    assert kept == {"one", "3", "2"}, "the one in use, the present one, and one of history"


def test_which_revisions_go() -> None:
    def made(name: str, number: int) -> Any:
        return {"metadata": {"name": name}, "revision": number}

    found = [made("a", 1), made("b", 2), made("c", 3), made("d", 4)]
    gone = superfluous(found, 1, current="d", used={"a"})
    assert [body["metadata"]["name"] for body in gone] == ["b"]  # type: ignore[index]
    assert superfluous(found, 0, current="d", used=["a", "b", "c"]) == []


def test_a_revision_is_the_spec_that_runs() -> None:
    def body(**spec: Any) -> Any:
        return {"metadata": {"name": "desk", "uid": "u", "generation": 3}, "spec": {**STABLE, **spec}}

    one = revision_of(body())
    assert one.name.startswith("desk-")
    assert one.generation == 3
    assert revision_of(body(canary={"agentRef": {"name": "x"}, "weight": 5})).name == one.name
    assert revision_of(body(instructions="two")).name != one.name
    assert LABEL_AGENT.startswith("parley.dev/")


def test_the_share_of_a_canary() -> None:
    uids = [f"uid-{number}" for number in range(4000)]
    for weight in (0, 10, 50, 100):
        share = sum(canary_gets(uid, weight) for uid in uids) / len(uids)
        assert abs(share - weight / 100) < 0.03, weight
    assert all(canary_gets(uid, 30) for uid in uids if canary_gets(uid, 10)), "a greater weight only adds"
    spec = parse_agent_spec({**STABLE, "canary": {"agentRef": {"name": "new"}, "weight": 100}})
    assert chosen_agent("desk", spec, "u") == "new"
    assert chosen_agent("desk", parse_agent_spec(STABLE), "u") == "desk"


async def test_a_rollout_by_weight() -> None:
    canary = {"agentRef": {"name": "new"}, "weight": 30}
    plane = await plane_with(desk={**STABLE, "canary": canary}, new={**STABLE, "instructions": "new"})
    got = []
    for number in range(60):
        got.append((await placed(plane, f"call-{number}")).origin.agent)
    assert 5 < got.count("new") < 35
    names = {plane.status(f"call-{number}")["agent"]["name"] for number in range(60)}
    assert names == {"desk", "new"}
    plane.reconciler.agents.count()
    for name in ("desk", "new"):
        await plane.reconciler.agents.reconcile(Key(AGENT, "default", name))
    desk: Any = plane.store.peek(AGENT, "default", "desk")
    assert desk["status"]["sessions"] == got.count("desk")
    assert desk["status"]["revisions"][0]["sessions"] == got.count("desk")
    metrics = plane.context.metrics.render().decode()
    assert f'agent="new",generation="1",namespace="default"}} {float(got.count("new"))}' in metrics


async def test_a_canary_that_is_not_there_gets_nothing_and_is_told_of() -> None:
    canary = {"agentRef": {"name": "new"}, "weight": 100}
    plane = await plane_with(desk={**STABLE, "canary": canary})
    assert (await placed(plane)).origin.agent == "desk"
    agents = plane.reconciler.agents
    await agents.reconcile(Key(AGENT, "default", "desk"))

    def conditions() -> Any:
        body: Any = plane.store.peek(AGENT, "default", "desk")
        return {c["type"]: (c["status"], c["reason"]) for c in body["status"]["conditions"]}

    assert conditions() == {"Accepted": ("True", "Accepted"), "CanaryReady": ("False", "CanaryNotUsable")}
    await plane.apply(AGENT, "new", STABLE)
    await agents.reconcile(Key(AGENT, "default", "desk"))
    assert conditions()["CanaryReady"] == ("True", "CanaryUsable")
    await plane.apply(AGENT, "desk", STABLE)
    await agents.reconcile(Key(AGENT, "default", "desk"))
    assert set(conditions()) == {"Accepted"}


@pytest.mark.parametrize(
    ("canary", "words"),
    [
        ({"agentRef": {"name": "a"}, "weight": 101}, r"spec\.canary\.weight"),
        ({"weight": 1}, r"spec\.canary\.agentRef\.name: is required"),
        ({"agentRef": {"name": "a"}, "weight": 1, "x": 1}, r"spec\.canary\.x"),
    ],
)
def test_a_canary_that_is_none(canary: Any, words: str) -> None:
    with pytest.raises(FieldError, match=words):
        parse_agent_spec({**STABLE, "canary": canary})


def test_an_agent_of_one_session_has_no_canary() -> None:
    canary = {"agentRef": {"name": "a"}, "weight": 1}
    with pytest.raises(FieldError, match=r"spec\.agent\.canary"):
        parse_agent_spec({**STABLE, "canary": canary}, "spec.agent", shared=False)


async def test_a_lost_session_goes_on_as_the_agent_that_it_had() -> None:
    plane = await plane_with(desk=STABLE)
    await plane.apply(SESSION, "call", {"agentRef": {"name": "desk"}, "recovery": {"policy": "Restart"}})
    await plane.look()
    first = plane.links.admits[-1][1]
    plane.links.report("w", first, SessionState.ACTIVE)
    await plane.look()
    await plane.apply(AGENT, "desk", {**STABLE, "instructions": "two"})
    plane.links.remove("w")
    plane.links.add("second")
    for _ in range(4):
        await plane.look()
    worker, again = plane.links.admits[-1]
    assert (worker, again.attempt, again.origin) == ("second", 2, first.origin)
    assert again.session_json == first.session_json
