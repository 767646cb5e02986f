"""Media units: what a client's audio can be sent to, and what can be sent to a client."""

from parley_realtime.units.links import send_media_between, stop_media_between

__all__ = ["send_media_between", "stop_media_between"]
