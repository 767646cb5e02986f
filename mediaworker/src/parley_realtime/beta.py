"""The beta protocol: `beta.create_realtime_api_client`, its client and its event names."""

from parley_realtime.client.beta import RealtimeAPIClient, create_realtime_api_client
from parley_realtime.events import BetaEvents as Events
from parley_realtime.events import BetaRealtimeAPIEvents as RealtimeAPIEvents

__all__ = ["Events", "RealtimeAPIClient", "RealtimeAPIEvents", "create_realtime_api_client"]
