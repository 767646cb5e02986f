"""RealtimeAPIClient: one conversation with an OpenAI-Realtime-compatible provider over one WebSocket.

The names in this module speak the GA protocol; `parley_realtime.beta` has the same for the beta protocol.
"""

from parley_realtime import beta, payloads
from parley_realtime.client.base import BaseRealtimeAPIClient
from parley_realtime.client.connection import ConnectionState
from parley_realtime.client.ga import RealtimeAPIClient, create_realtime_api_client
from parley_realtime.client.listeners import RealtimeEvent
from parley_realtime.client.parameters import (
    ClearMediaBufferParameters,
    RealtimeAPIClientParameters,
    SendMediaParameters,
    Statistics,
)
from parley_realtime.client.statistics import Latency
from parley_realtime.client.trace import TraceEntry, TraceSink
from parley_realtime.errors import (
    AuthenticationError,
    BetaShapeDisabled,
    ClientStateError,
    ConnectAborted,
    ConnectTimeout,
    InvalidEventError,
    ModelRefusedError,
    OutgoingQueueFull,
    ProtocolError,
    ProviderError,
    QuotaError,
    RealtimeError,
    ScenarioError,
    SessionExpired,
    UnavailableError,
    UnknownEventError,
)
from parley_realtime.events import (
    Events,
    MediaChunk,
    MediaSource,
    MediaUnit,
    RealtimeAPIEvents,
    WebSocketCloseCode,
    WebSocketCloseEvent,
)
from parley_realtime.formats import PCM16, PCMA, PCMU, AudioFormat, WebSocketAudioEncoding
from parley_realtime.protocol.shape import ClientType
from parley_realtime.protocol.urls import Authentication, ProviderFlavour
from parley_realtime.recovery import (
    Reconnected,
    Reconnecting,
    RecoveryEvents,
    RecoveryParameters,
    RestoreRefused,
)
from parley_realtime.units import send_media_between, stop_media_between

__version__ = "0.1.0"

RealtimeAPIClientType = ClientType

__all__ = [
    "PCM16",
    "PCMA",
    "PCMU",
    "AudioFormat",
    "Authentication",
    "AuthenticationError",
    "BaseRealtimeAPIClient",
    "BetaShapeDisabled",
    "ClearMediaBufferParameters",
    "ClientStateError",
    "ClientType",
    "ConnectAborted",
    "ConnectTimeout",
    "ConnectionState",
    "Events",
    "InvalidEventError",
    "Latency",
    "MediaChunk",
    "MediaSource",
    "MediaUnit",
    "ModelRefusedError",
    "OutgoingQueueFull",
    "ProtocolError",
    "ProviderError",
    "ProviderFlavour",
    "QuotaError",
    "RealtimeAPIClient",
    "RealtimeAPIClientParameters",
    "RealtimeAPIClientType",
    "RealtimeAPIEvents",
    "RealtimeError",
    "RealtimeEvent",
    "Reconnected",
    "Reconnecting",
    "RecoveryEvents",
    "RecoveryParameters",
    "RestoreRefused",
    "ScenarioError",
    "SendMediaParameters",
    "SessionExpired",
    "Statistics",
    "TraceEntry",
    "TraceSink",
    "UnavailableError",
    "UnknownEventError",
    "WebSocketAudioEncoding",
    "WebSocketCloseCode",
    "WebSocketCloseEvent",
    "beta",
    "create_realtime_api_client",
    "payloads",
    "send_media_between",
    "stop_media_between",
]
