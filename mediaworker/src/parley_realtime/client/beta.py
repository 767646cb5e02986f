"""The beta client: methods take positional arguments and build the event."""

from __future__ import annotations

from typing import ClassVar

from parley_realtime.client.listening_beta import BetaListening
from parley_realtime.client.methods import BetaMethods
from parley_realtime.client.parameters import RealtimeAPIClientParameters
from parley_realtime.protocol.beta import BETA
from parley_realtime.protocol.shape import Shape


class RealtimeAPIClient(BetaListening, BetaMethods):
    """See BaseRealtimeAPIClient and BetaMethods. On barge-in the audio buffer is cleared by itself."""

    shape: ClassVar[Shape] = BETA


async def create_realtime_api_client(parameters: RealtimeAPIClientParameters) -> RealtimeAPIClient:
    """A connected beta client; raises the RealtimeError that prevented it."""
    return await RealtimeAPIClient(parameters).connect()
