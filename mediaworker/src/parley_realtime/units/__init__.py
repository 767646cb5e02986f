"""Media units: what a client's audio can be sent to, and what can be sent to a client."""

from parley_realtime.units.links import send_media_between, stop_media_between
from parley_realtime.units.recorder import Recorded, RecorderUnit, Recording
from parley_realtime.units.storage import FolderSink, RecordingError, S3Sink, S3Target

__all__ = [
    "FolderSink",
    "Recorded",
    "RecorderUnit",
    "Recording",
    "RecordingError",
    "S3Sink",
    "S3Target",
    "send_media_between",
    "stop_media_between",
]
