"""Media units: what a client's audio can be sent to, and what can be sent to a client."""

from parley_realtime.units.links import send_media_between, stop_media_between
from parley_realtime.units.mixer import Mixer
from parley_realtime.units.player import Player, PlayerEvent, PlayerEvents
from parley_realtime.units.recorder import Recorded, RecorderUnit, Recording
from parley_realtime.units.sources import PlayerAccess, PlayerError
from parley_realtime.units.storage import FolderSink, RecordingError, S3Sink, S3Target
from parley_realtime.units.websocket_media import WebSocketEvent, WebSocketEvents, WebSocketMedia

__all__ = [
    "FolderSink",
    "Mixer",
    "Player",
    "PlayerAccess",
    "PlayerError",
    "PlayerEvent",
    "PlayerEvents",
    "Recorded",
    "RecorderUnit",
    "Recording",
    "RecordingError",
    "S3Sink",
    "S3Target",
    "WebSocketEvent",
    "WebSocketEvents",
    "WebSocketMedia",
    "send_media_between",
    "stop_media_between",
]
