"""The RealtimeAPIClient of a session, as its scenario sees it: the worker holds the real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley_realtime.client.listeners import RealtimeEvent
from parley_realtime.client.methods import BetaMethods, GAMethods
from parley_realtime.errors import InvalidEventError
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import Shape

from parley_scenario.handlers import Handler, Handlers
from parley_scenario.link import Link
from parley_scenario.units import Unit

CLIENT_EVENT_TYPES = frozenset(
    {
        "session.update",
        "response.create",
        "response.cancel",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "conversation.item.delete",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
    }
)


class ScenarioClient(Unit):
    """What both shapes have: listeners, media, and events of one's own making.

    Events come to listeners after the worker has handled them, in the provider's order; audio never comes.
    """

    def __init__(self, link: Link, shape: Shape, client_id: str) -> None:
        super().__init__(link, "client")
        self._shape, self._id, self._socket_id = shape, client_id, ""
        self._handlers = Handlers("the client", shape.event_names, self._listen)

    def id(self) -> str:
        """The client's id; empty until the provider is connected."""
        return self._id

    def web_socket_id(self) -> str:
        """The id of its WebSocket; empty until the provider is connected."""
        return self._socket_id

    def add_event_listener(self, event: str, handler: Handler | object) -> None:
        """Call `handler(event)`, sync or async, for every such event of `RealtimeAPIEvents` or `Events`."""
        self._handlers.add(event, handler)

    def remove_event_listener(self, event: str, handler: Handler | object | None = None) -> None:
        """Remove one listener of the event, or all when none is given."""
        self._handlers.remove(event, handler)

    def send_event(self, event: Mapping[str, Any]) -> None:
        """Send a whole client event, `type` included. InvalidEventError when it may not be sent."""
        kind = event.get("type")
        if kind not in CLIENT_EVENT_TYPES:
            allowed = ", ".join(sorted(CLIENT_EVENT_TYPES))
            raise InvalidEventError(f"type {kind!r} is not allowed: use one of {allowed}")
        self._link.send("send", event=dict(event))

    def clear_media_buffer(self, parameters: Mapping[str, Any] | None = None) -> None:
        """Throw away agent audio that the caller did not hear, and cancel the response that makes it.

        A tag in `parameters` changes nothing: a session's client has one stream, the caller's.
        """
        self._link.send("clear")

    def close(self) -> None:
        """End the session: without its client there is no conversation."""
        self._link.send("complete", reason="the scenario closed the client")

    def _listen(self) -> None:
        self._link.send("listen", names=self._handlers.names)

    # What the host does

    def opened(self, client_id: str, socket_id: str) -> None:
        self._id, self._socket_id = client_id, socket_id

    async def dispatch(self, name: str, data: Any, timeout: float) -> None:
        await self._handlers.dispatch(name, RealtimeEvent(name, self, data), timeout)


class GAClient(ScenarioClient, GAMethods):
    """The client of a GA session: see `parley_realtime.RealtimeAPIClient`."""


class BetaClient(ScenarioClient, BetaMethods):
    """The client of a beta session: see `parley_realtime.beta.RealtimeAPIClient`."""


def make_client(link: Link, api_version: str) -> GAClient | BetaClient:
    """The client of a session of this version, `ga` or `beta`."""
    return BetaClient(link, BETA, "") if api_version == "beta" else GAClient(link, GA, "")
