"""Words and bounds of tools, scenarios and recordings: operator, worker, contract and CRDs say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor import FieldDescriptor
from parley.control.v1 import control_pb2 as pb
from parley_operator.api import conduct, constants, tools, v1alpha1
from parley_operator.domain.conduct import MAX_SOURCE_BYTES
from parley_worker import config as worker_config
from parley_worker.codec import agent_pb, control_pb
from parley_worker.core.agent import ScenarioLimits, ToolRoute, ToolRouteKind

CHART = Path(__file__).resolve().parents[3] / "charts/parley"
SECRETS = {"api_key", "signing_key", "access_key_id", "secret_access_key", "state_json"}


def schema(kind: str) -> dict[str, Any]:
    crd = yaml.safe_load((CHART / f"files/crds/{kind}.yaml").read_text())
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found["properties"]


@pytest.fixture(scope="module")
def agent() -> dict[str, Any]:
    return schema("voiceagents")


@pytest.fixture(scope="module")
def session() -> dict[str, Any]:
    return schema("voicesessions")


def test_an_agent_is_the_same_in_both_kinds(agent: dict[str, Any], session: dict[str, Any]) -> None:
    shared_only = {"canary", "revisionHistoryLimit"}
    assert session["agent"]["properties"] == {k: v for k, v in agent.items() if k not in shared_only}


def test_routes_of_tools(agent: dict[str, Any]) -> None:
    route = agent["tools"]["items"]["properties"]["route"]["properties"]
    common = {"timeout", "retries", "cancelOnBargeIn", "maxOutputBytes"}
    contract = {field.name for field in pb.ToolRoute.DESCRIPTOR.oneofs_by_name["route"].fields}
    assert set(tools.ROUTES) == contract == {kind.value for kind in ToolRouteKind} == set(route) - common


def test_types_of_providers(agent: dict[str, Any], session: dict[str, Any]) -> None:
    for holder in (agent, session):
        types = holder["provider"]["properties"]["type"]["enum"]
        assert tuple(types) == v1alpha1.PROVIDER_TYPES == control_pb.PROVIDER_TYPES


def test_formats_of_recordings(session: dict[str, Any]) -> None:
    formats = session["recording"]["properties"]["format"]["enum"]
    assert tuple(formats) == conduct.RECORDING_FORMATS == agent_pb.RECORDING_FORMATS


def test_bounds_of_tools(agent: dict[str, Any]) -> None:
    route = agent["tools"]["items"]["properties"]["route"]["properties"]
    assert agent["tools"]["maxItems"] == tools.MAX_TOOLS == agent_pb.MAX_TOOLS
    assert route["retries"]["maximum"] == tools.MAX_RETRIES == agent_pb.MAX_TOOL_RETRIES
    assert route["maxOutputBytes"]["maximum"] == tools.MAX_OUTPUT_BYTES == agent_pb.MAX_TOOL_OUTPUT_BYTES
    assert tools.MAX_TIMEOUT == agent_pb.MAX_TOOL_SECONDS
    assert f"at most {tools.MAX_TIMEOUT:g}s" in route["timeout"]["description"]


def test_bounds_of_lines(agent: dict[str, Any]) -> None:
    phrases = agent["hangUp"]["properties"]["phrases"]
    assert phrases["maxItems"] == conduct.MAX_PHRASES == agent_pb.MAX_PHRASES
    assert phrases["items"]["maxLength"] == agent_pb.MAX_PHRASE
    assert agent["idle"]["properties"]["lines"]["maxItems"] == conduct.MAX_LINES == agent_pb.MAX_LINES
    assert agent["greeting"]["properties"]["text"]["maxLength"] == conduct.MAX_LINE
    assert conduct.MAX_LINE * 4 <= agent_pb.MAX_LINE_BYTES, "characters have at most four bytes"


def test_bounds_of_scenarios(agent: dict[str, Any]) -> None:
    assert MAX_SOURCE_BYTES == agent_pb.MAX_SOURCE_BYTES
    assert conduct.MAX_PARAMETERS == agent_pb.MAX_PARAMETERS_BYTES
    assert conduct.ENTRY_POINT.pattern == agent_pb.ENTRY_POINT.pattern
    assert conduct.MEMORY_BOUNDS == agent_pb.MEMORY_BOUNDS
    written = agent["scenario"]["properties"]["entryPoint"]["pattern"].replace("[A-Za-z0-9_]", r"\w")
    assert written == f"^{conduct.ENTRY_POINT.pattern}$"


def test_defaults_that_the_crd_names_are_the_workers(agent: dict[str, Any]) -> None:
    route = agent["tools"]["items"]["properties"]["route"]["properties"]
    limits = agent["scenario"]["properties"]["limits"]["properties"]
    plain, bounds = ToolRoute("t"), ScenarioLimits()
    for described, value in (
        (route["timeout"], f"{plain.timeout:g}s"),
        (route["retries"], f"{plain.retries}"),
        (route["maxOutputBytes"], f"{plain.max_output_bytes}"),
        (limits["handlerTimeout"], f"{bounds.handler_timeout:g}s"),
        (limits["memory"], f"{bounds.memory_bytes // 1024**2}Mi"),
        (limits["timers"], f"{bounds.max_timers}"),
        (limits["eventsPerSecond"], f"{bounds.events_per_second}"),
    ):
        assert f"Left out: {value}." in described["description"]


def test_ports_of_workers() -> None:
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    ports = dict(re.findall(r'define "parley\.worker\.(\w+)Port" -\}\}(\d+)', helpers))
    assert {name: int(port) for name, port in ports.items()} == {
        "media": constants.MEDIA_PORT,
        "telephony": constants.TELEPHONY_PORT,
        "control": constants.CONTROL_PORT,
        "admin": constants.ADMIN_PORT,
    }


def test_shards_of_a_worker() -> None:
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    (most,) = re.findall(r'define "parley\.worker\.maxShards" -\}\}(\d+)', helpers)
    schema = json.loads((CHART / "values.schema.json").read_text())
    pool = schema["properties"]["defaultPool"]["properties"]["shards"]
    bounds = {int(most), pool["maximum"], constants.MAX_SHARDS, worker_config.MAX_SHARDS}
    assert bounds == {constants.MAX_SHARDS}


def test_every_secret_of_the_contract_is_marked() -> None:
    def texts(message: Any) -> list[FieldDescriptor]:
        return [field for field in message.fields if field.type == FieldDescriptor.TYPE_STRING]

    fields = [f for message in pb.DESCRIPTOR.message_types_by_name.values() for f in texts(message)]
    marked = {field.name for field in fields if field.GetOptions().debug_redact}
    assert marked == SECRETS
    doubtful = {f.name for f in fields if re.search("key|secret|token|password", f.name)}
    assert doubtful <= marked
