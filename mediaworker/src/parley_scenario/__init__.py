"""Scenarios: user code that steers one conversation, in VoxEngine's terms.

    from parley_scenario import CallEvents, Context

    async def main(ctx: Context) -> None:
        ctx.caller.add_event_listener(CallEvents.Connected, lambda event: ctx.say("Hello."))

A scenario runs in a process of its own beside the worker, under limits. See docs/scenarios.md.
"""

from parley_realtime.errors import InvalidEventError
from parley_realtime.events import BetaEvents, BetaRealtimeAPIEvents, Events, RealtimeAPIEvents

from parley_scenario.client import BetaClient, GAClient
from parley_scenario.context import Context, Limits, Log, SessionInfo
from parley_scenario.events import (
    AppEvents,
    CallEvents,
    Event,
    PlayerEvents,
    RecorderEvents,
    ScenarioMistake,
    UnknownEvent,
)
from parley_scenario.timers import Timer
from parley_scenario.units import CallerLeg, Player, Recorder, Unit
from parley_scenario.web import Http, HttpError, HttpResponse

__all__ = [
    "AppEvents",
    "BetaClient",
    "BetaEvents",
    "BetaRealtimeAPIEvents",
    "CallEvents",
    "CallerLeg",
    "Context",
    "Event",
    "Events",
    "GAClient",
    "Http",
    "HttpError",
    "HttpResponse",
    "InvalidEventError",
    "Limits",
    "Log",
    "Player",
    "PlayerEvents",
    "RealtimeAPIEvents",
    "Recorder",
    "RecorderEvents",
    "ScenarioMistake",
    "SessionInfo",
    "Timer",
    "Unit",
    "UnknownEvent",
]
