"""What an agent does beside conversing, as an Admit carries it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from parley.control.v1 import control_pb2 as pb
from parley_worker.codec import agent_pb, control_pb
from parley_worker.core.agent import (
    Behaviour,
    Line,
    MediaAccess,
    RecordingConfig,
    RecoveryConfig,
    ScenarioConfig,
    ScenarioLimits,
    ToolRoute,
    ToolRouteKind,
)
from parley_worker.core.model import LimitsConfig, SessionConfig
from parley_worker.core.secret import Secret

DEFAULTS = LimitsConfig(3600, 300, 60, 30)
PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


def request() -> pb.AdmitRequest:
    return pb.AdmitRequest(
        session=pb.SessionRef(namespace="ns", name="call", session_uid="uid-1", attempt=1),
        config=pb.SessionConfig(provider=pb.Provider(url="wss://x/v1", api_version="ga", model="m")),
    )


def read(change: Callable[[pb.SessionConfig], object]) -> SessionConfig:
    asked = request()
    change(asked.config)
    return control_pb.session_config(asked, DEFAULTS)


def test_an_admit_of_an_older_operator_asks_for_nothing_more() -> None:
    config = control_pb.session_config(request(), DEFAULTS)
    assert config.behaviour == Behaviour()
    assert config.recovery == RecoveryConfig()
    assert config.media_access == MediaAccess()
    assert (config.tools, config.scenario, config.recording) == ((), None, None)
    assert config.provider.type == "custom"


def test_behaviour_arrives_whole() -> None:
    def change(config: pb.SessionConfig) -> None:
        made = config.behaviour
        made.greeting.text = "Hello."
        made.hang_up_tool = True
        made.hang_up_phrases.append("good bye")
        made.farewell.instructions = "Say good bye."
        made.idle_after.FromMilliseconds(10_500)
        made.idle_lines.add(text="Are you there?")
        made.goodbye_before.FromSeconds(20)
        made.goodbye.text = "Time is up."

    assert read(change).behaviour == Behaviour(
        greeting=Line(text="Hello."),
        hang_up_tool=True,
        hang_up_phrases=("good bye",),
        farewell=Line(instructions="Say good bye."),
        idle_after=10.5,
        idle_lines=(Line(text="Are you there?"),),
        idle_hang_up=False,
        goodbye_before=20.0,
        goodbye=Line(text="Time is up."),
    )


def test_every_route_of_a_tool_arrives() -> None:
    def change(config: pb.SessionConfig) -> None:
        config.scenario.entry_point = "shop.calls:main"
        config.tools.add(name="weather", nats=pb.NatsRoute())
        config.tools.add(name="ask", caller=pb.CallerRoute(), max_output_bytes=100)
        config.tools.add(name="book", scenario=pb.ScenarioRoute(), cancel_on_barge_in=True)
        webhook = pb.WebhookRoute(url="https://h/x", signing_key="hidden", ca_pem=PEM, retries=0)
        tool = config.tools.add(name="order", webhook=webhook)
        tool.timeout.FromMilliseconds(2500)

    tools = read(change).tools
    assert tools == (
        ToolRoute("weather", ToolRouteKind.NATS),
        ToolRoute("ask", ToolRouteKind.CALLER, max_output_bytes=100),
        ToolRoute("book", ToolRouteKind.SCENARIO, cancel_on_barge_in=True),
        ToolRoute(
            "order",
            ToolRouteKind.WEBHOOK,
            timeout=2.5,
            url="https://h/x",
            signing_key=Secret("hidden"),
            ca_pem=PEM,
            retries=0,
        ),
    )
    assert "hidden" not in repr(tools)


def test_every_route_of_the_contract_is_known() -> None:
    words = {field.name for field in pb.ToolRoute.DESCRIPTOR.oneofs_by_name["route"].fields}
    assert words == {kind.value for kind in ToolRouteKind}


def test_a_scenario_arrives_with_defaults_where_nothing_was_said() -> None:
    def change(config: pb.SessionConfig) -> None:
        config.scenario.source = "async def main(ctx): ..."
        config.scenario.parameters_json = '{"queue": "sales"}'
        config.scenario.limits.handler_timeout.FromSeconds(30)
        config.scenario.limits.memory_bytes = 64 * 1024 * 1024

    assert read(change).scenario == ScenarioConfig(
        source="async def main(ctx): ...",
        parameters={"queue": "sales"},
        limits=ScenarioLimits(handler_timeout=30, async_handler_timeout=30, memory_bytes=64 * 1024 * 1024),
    )


def test_recordings_arrive_and_hide_their_keys() -> None:
    def folder(config: pb.SessionConfig) -> None:
        config.recording.directory = "/recordings"

    def store(config: pb.SessionConfig) -> None:
        config.recording.format = "opus"
        config.recording.s3.url = "s3://calls/eu"
        config.recording.s3.endpoint = "http://minio:9000"
        config.recording.s3.access_key_id = "hidden-id"
        config.recording.s3.secret_access_key = "hidden-key"

    assert read(folder).recording == RecordingConfig(directory="/recordings")
    found = read(store).recording
    assert found == RecordingConfig(
        format="opus",
        s3_url="s3://calls/eu",
        s3_endpoint="http://minio:9000",
        s3_access_key=Secret("hidden-id"),
        s3_secret_key=Secret("hidden-key"),
    )
    assert "hidden" not in repr(found)


def test_recovery_says_what_it_says() -> None:
    def change(config: pb.SessionConfig) -> None:
        config.recovery.keep_private = True
        config.recovery.rotate_after.FromSeconds(3300)

    assert read(change).recovery == RecoveryConfig(restore=False, keep_private=True, rotate_after=3300)


def refuse(change: Callable[[pb.SessionConfig], object]) -> str:
    with pytest.raises(control_pb.InvalidRequest) as caught:
        read(change)
    return str(caught.value)


def tool(**fields: object) -> Callable[[pb.SessionConfig], object]:
    return lambda config: config.tools.append(pb.ToolRoute(**fields))  # type: ignore[arg-type]


def webhook(**fields: object) -> Callable[[pb.SessionConfig], object]:
    full = {"url": "https://h/x", **fields}
    return tool(name="t", webhook=pb.WebhookRoute(**full))  # type: ignore[arg-type]


def set_field(path: str, value: object) -> Callable[[pb.SessionConfig], object]:
    def change(config: pb.SessionConfig) -> None:
        *heads, last = path.split(".")
        part: object = config
        for head in heads:
            part = getattr(part, head)
        setattr(part, last, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (tool(name="", nats=pb.NatsRoute()), "config.tools[0].name is ''"),
        (tool(name="a b", nats=pb.NatsRoute()), "config.tools[0].name is 'a b'"),
        (tool(name="t"), "config.tools[0].route is 'missing or unknown here'"),
        (tool(name="t", nats=pb.NatsRoute(), max_output_bytes=-1), "config.tools[0].max_output_bytes is -1"),
        (tool(name="t", scenario=pb.ScenarioRoute()), "config.tools[0].route is scenario"),
        (webhook(url="ftp://hidden/x"), "config.tools[0].webhook.url is 'not usable'"),
        (webhook(ca_pem="hidden"), "config.tools[0].webhook.ca_pem is 'not PEM'"),
        (webhook(retries=11), "config.tools[0].webhook.retries is 11"),
        (set_field("scenario.function", "f"), "config.scenario.code is 'missing'"),
        (set_field("scenario.entry_point", "no colon"), "config.scenario.entry_point is 'no colon'"),
        (set_field("scenario.entry_point", "a:b:c"), "config.scenario.entry_point is 'a:b:c'"),
        (set_field("scenario.source", ""), "config.scenario.source is '0 bytes long'"),
        (
            set_field("scenario.source", "#" * (agent_pb.MAX_SOURCE_BYTES + 1)),
            "config.scenario.source is '262145 bytes long'",
        ),
        (set_field("recording.format", "mp3"), "config.recording.format is 'mp3'"),
        (set_field("recording.format", "wav"), "config.recording.target is 'missing"),
        (set_field("recording.directory", "relative"), "config.recording.directory is 'relative'"),
        (set_field("recording.directory", "/a/../b"), "config.recording.directory is '/a/../b'"),
        (set_field("recording.s3.url", "https://x/hidden"), "config.recording.s3.url is 'not usable'"),
        (set_field("recording.s3.url", "s3://b/../hidden"), "config.recording.s3.url is 'not usable'"),
        (set_field("provider.type", "aws"), "config.provider.type is 'aws'"),
    ],
)
def test_what_cannot_run_is_refused_with_its_field(
    change: Callable[[pb.SessionConfig], object], words: str
) -> None:
    said = refuse(change)
    assert words in said
    assert "give " in said
    assert "hidden" not in said


def test_more_refusals_that_need_two_fields() -> None:
    def twice(config: pb.SessionConfig) -> None:
        for _ in range(2):
            config.tools.add(name="t", nats=pb.NatsRoute())

    def private(config: pb.SessionConfig) -> None:
        config.privacy = True
        config.recording.directory = "/r"

    def traced(config: pb.SessionConfig) -> None:
        config.privacy = True
        config.trace = True

    def half(config: pb.SessionConfig) -> None:
        config.recording.s3.url = "s3://calls"
        config.recording.s3.access_key_id = "hidden"

    def slow(config: pb.SessionConfig) -> None:
        config.tools.add(name="t", nats=pb.NatsRoute()).timeout.FromSeconds(301)

    def odd_limits(config: pb.SessionConfig) -> None:
        config.scenario.entry_point = "a:b"
        config.scenario.limits.memory_bytes = 1

    def odd_parameters(config: pb.SessionConfig) -> None:
        config.scenario.entry_point = "a:b"
        config.scenario.parameters_json = "[]"

    def wordy(config: pb.SessionConfig) -> None:
        config.behaviour.greeting.text = "x" * (agent_pb.MAX_LINE_BYTES + 1)

    assert "config.tools[1].name is 't': give each name once" in refuse(twice)
    assert "config.recording is given together with config.privacy" in refuse(private)
    assert "config.trace is given together with config.privacy" in refuse(traced)
    said = refuse(half)
    assert "config.recording.s3 is 'half a credential'" in said
    assert "hidden" not in said
    assert "config.tools[0].timeout is '301 s'" in refuse(slow)
    assert "config.scenario.limits.memory_bytes is 1" in refuse(odd_limits)
    assert "config.scenario.parameters_json is a JSON list" in refuse(odd_parameters)
    assert "config.behaviour.greeting is '16385 bytes long'" in refuse(wordy)
