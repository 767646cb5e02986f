"""Every client event and every server event of both shapes, against the core and against a live provider.

The same scenarios run over both; every event that comes is checked against the official package's types.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai_schema
import protocol_scenarios as scenarios
import pytest
from parley_local import LocalProvider, LocalProviderConfig, serve
from parley_local.brains.script import ScriptBrain
from parley_local.core.catalogue import CLIENT_EVENTS, SERVER_EVENTS
from parley_local.core.settings import Shape
from websockets.asyncio.client import connect

ALL = scenarios.load()
each = pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    config = LocalProviderConfig(port=0, audio_speed=4, brain=f"script:{scenarios.BRAIN}")
    async with serve(config) as running:
        yield running


def check_all(events: list[scenarios.Json], shape: Shape) -> None:
    elsewhere = SERVER_EVENTS[Shape.GA].keys() - SERVER_EVENTS[Shape.BETA].keys()
    for event in events:
        if shape is Shape.BETA and event["type"] in elsewhere:
            continue  # a directive sent it for the other shape
        openai_schema.check(event, shape)


@each
async def test_core(scenario: scenarios.Scenario) -> None:
    brain = ScriptBrain.load(scenarios.BRAIN)
    link = scenarios.CoreLink(scenario, brain, brain.mcp_servers)
    await scenarios.run(scenario, link)
    check_all(link.harness.events, scenario.shape)


@each
async def test_live(scenario: scenarios.Scenario, provider: LocalProvider) -> None:
    headers = {"OpenAI-Beta": "realtime=v1"} if scenario.shape is Shape.BETA else {}
    query = "intent=transcription" if scenario.transcription else f"model={scenarios.MODELS[scenario.shape]}"
    async with connect(f"{provider.url}?{query}", additional_headers=headers) as socket:
        seen = await scenarios.run(scenario, scenarios.LiveLink(socket))
    check_all(seen, scenario.shape)


@pytest.mark.parametrize("shape", Shape)
def test_every_event_has_a_scenario(shape: Shape) -> None:
    own = [scenario for scenario in ALL if scenario.shape is shape]
    expected = {kind for scenario in own for kind in scenario.expects()}
    sent = {kind for scenario in own for kind in scenario.sends()}
    assert sorted(SERVER_EVENTS[shape].keys() - expected) == []
    assert sorted(set(CLIENT_EVENTS[shape]) - sent) == []


@pytest.mark.parametrize("shape", Shape)
def test_the_catalogue_is_the_official_one(shape: Shape) -> None:
    """Each event with the fields it must have; more than the package's types know are three, named here."""
    ours, theirs = SERVER_EVENTS[shape], openai_schema.SERVER[shape]
    assert ours.keys() - theirs.keys() <= {"transcription_session.created"}
    assert theirs.keys() - ours.keys() == set()
    for kind, model in theirs.items():
        required = {name for name, info in model.model_fields.items() if info.is_required()}
        assert set(ours[kind]) | {"type", "event_id"} >= required, kind
        assert set(ours[kind]) <= required | {"name"}, kind
    assert set(CLIENT_EVENTS[shape]) - openai_schema.CLIENT[shape].keys() <= {"session.close"}
    assert openai_schema.CLIENT[shape].keys() <= set(CLIENT_EVENTS[shape])
