"""`parley.control.v1.CommandRequest` as what the core is told."""

from __future__ import annotations

from parley.control.v1 import control_pb2 as pb

from parley_worker.codec import agent_pb, control_pb
from parley_worker.codec.checks import InvalidRequest, json_object, require
from parley_worker.core.events import CommandReceived, ConfigChanged
from parley_worker.core.model import LimitsConfig, Wanted


def instruction(request: pb.CommandRequest, defaults: LimitsConfig) -> CommandReceived | ConfigChanged:
    """What to do; InvalidRequest names the field that is wrong. Zero limits become `defaults`."""
    match request.WhichOneof("command"):
        case "client_event_json":
            return CommandReceived(client_event(request.client_event_json))
        case "clear":
            return CommandReceived(clear=request.clear)
        case "reconfigure":
            return ConfigChanged(_wanted(request.reconfigure, defaults))
    raise InvalidRequest("command is missing: give client_event_json, clear or reconfigure")


def client_event(text: str) -> dict[str, object]:
    """The Realtime client event of a Command."""
    event = json_object(text, "client_event_json")
    require(isinstance(event.get("type"), str), "client_event_json", "without `type`", "an event with a type")
    return event


def _wanted(message: pb.Reconfigure, defaults: LimitsConfig) -> Wanted:
    require(message.generation >= 1, "reconfigure.generation", message.generation, "1 or more")
    return Wanted(
        generation=message.generation,
        session=control_pb.session_object(message.session_json, "reconfigure.session_json"),
        # Whether a scenario listens is the session's to know: a route that leads nowhere fails its calls.
        tools=agent_pb.tools(message.tools, scenario=True, where="reconfigure.tools"),
        limits=control_pb.limits_config(message.limits, defaults, "reconfigure.limits"),
    )
