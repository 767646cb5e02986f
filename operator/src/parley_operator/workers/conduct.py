"""What a session does beside conversing, as control.v1 messages."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from parley.control.v1 import control_pb2 as pb

from parley_operator.api.conduct import FAIL, BehaviourSpec, LineSpec, RecoverySpec
from parley_operator.domain.conduct import Conduct, RecordingTarget, ScenarioTarget, ToolTarget

NO_BEHAVIOUR = BehaviourSpec()


def duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def fill_config(config: pb.SessionConfig, conduct: Conduct) -> None:
    """Write what was asked for into the worker's configuration; what was not stays missing."""
    if conduct.behaviour != NO_BEHAVIOUR:
        config.behaviour.CopyFrom(_behaviour(conduct.behaviour))
    config.tools.extend(tool_route(target) for target in conduct.tools)
    if conduct.scenario is not None:
        config.scenario.CopyFrom(_scenario(conduct.scenario))
    if conduct.recording is not None:
        config.recording.CopyFrom(_recording(conduct.recording))
    config.trace = conduct.trace
    config.recovery.CopyFrom(_recovery(conduct.recovery))
    if conduct.media.hosts or conduct.media.directories:
        config.media_access.hosts.extend(conduct.media.hosts)
        config.media_access.directories.extend(conduct.media.directories)


def _line(line: LineSpec) -> pb.Line:
    return pb.Line(text=line.text) if line.text else pb.Line(instructions=line.instructions)


def _behaviour(spec: BehaviourSpec) -> pb.Behaviour:
    found = pb.Behaviour(
        hang_up_tool=spec.hang_up_tool,
        hang_up_phrases=spec.hang_up_phrases,
        idle_lines=[_line(line) for line in spec.idle_lines],
        idle_hang_up=spec.idle_hang_up,
    )
    for name, line in (
        ("greeting", spec.greeting),
        ("farewell", spec.farewell),
        ("goodbye", spec.goodbye),
    ):
        if line:
            getattr(found, name).CopyFrom(_line(line))
    for name, seconds in (("idle_after", spec.idle_after), ("goodbye_before", spec.goodbye_before)):
        if seconds:
            getattr(found, name).CopyFrom(duration(seconds))
    return found


def tool_route(target: ToolTarget) -> pb.ToolRoute:
    route = target.route
    found = pb.ToolRoute(
        name=target.name,
        max_output_bytes=route.max_output_bytes,
        cancel_on_barge_in=route.cancel_on_barge_in,
    )
    if route.timeout:
        found.timeout.CopyFrom(duration(route.timeout))
    getattr(found, route.kind).SetInParent()
    if route.kind == "webhook":
        found.webhook.url = route.url
        found.webhook.signing_key = target.signing_key.reveal()
        found.webhook.ca_pem = route.ca_pem
        if route.retries is not None:
            found.webhook.retries = route.retries
    return found


def _scenario(target: ScenarioTarget) -> pb.Scenario:
    spec, limits = target.spec, target.spec.limits
    found = pb.Scenario(parameters_json=target.parameters_json)
    if spec.entry_point:
        found.entry_point = spec.entry_point
    else:
        found.source = target.source
        found.file_name = target.file_name
        found.function = spec.function
    if limits.handler_timeout:
        found.limits.handler_timeout.CopyFrom(duration(limits.handler_timeout))
    found.limits.memory_bytes = limits.memory_bytes
    found.limits.timers = limits.timers
    found.limits.events_per_second = limits.events_per_second
    return found


def _recording(target: RecordingTarget) -> pb.Recording:
    spec = target.spec
    found = pb.Recording(format=spec.format)
    if spec.directory:
        found.directory = spec.directory
        return found
    found.s3.url = spec.s3_url
    found.s3.endpoint = spec.s3_endpoint
    found.s3.region = spec.s3_region
    found.s3.access_key_id = target.access_key_id.reveal()
    found.s3.secret_access_key = target.secret_access_key.reveal()
    return found


def _recovery(spec: RecoverySpec) -> pb.Recovery:
    found = pb.Recovery(
        restore=spec.restore, keep_private=spec.keep_private, outlives_worker=spec.policy != FAIL
    )
    if spec.rotate_after:
        found.rotate_after.CopyFrom(duration(spec.rotate_after))
    return found
