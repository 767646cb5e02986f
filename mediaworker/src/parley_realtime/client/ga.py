"""The GA client: methods take the whole event of the provider's reference without its `type`."""

from __future__ import annotations

from typing import ClassVar

from parley_realtime.client.listening_ga import GAListening
from parley_realtime.client.methods import GAMethods
from parley_realtime.client.parameters import RealtimeAPIClientParameters
from parley_realtime.errors import RealtimeError
from parley_realtime.events import RealtimeAPIEvents
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import Shape


class RealtimeAPIClient(GAListening, GAMethods):
    """See BaseRealtimeAPIClient and GAMethods.

    On barge-in the audio buffer is not cleared by itself: call `clear_media_buffer()` on
    `RealtimeAPIEvents.InputAudioBufferSpeechStarted`.
    """

    shape: ClassVar[Shape] = GA

    def opened(self, socket_id: str) -> None:
        """See Sink."""
        super().opened(socket_id)
        self._emit(RealtimeAPIEvents.HTTPResponse, {"payload": {"status": 101}})
        information = {"web_socket_id": socket_id, "client_id": self.id(), "api_version": self.shape.label}
        self._emit(RealtimeAPIEvents.ConnectorInformation, {"payload": information})

    def _report(self, outcome: RealtimeError) -> None:
        payload = {
            "reason": outcome.reason,
            "message": outcome.message,
            "code": outcome.code,
            "close_code": outcome.close_code,
            "retryable": outcome.retryable,
        }
        self._emit(RealtimeAPIEvents.WebSocketError, {"payload": payload})


async def create_realtime_api_client(parameters: RealtimeAPIClientParameters) -> RealtimeAPIClient:
    """A connected GA client; raises the RealtimeError that prevented it."""
    return await RealtimeAPIClient(parameters).connect()
