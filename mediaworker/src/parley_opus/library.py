"""libopus by ctypes: one mono encoder or decoder an object, on the caller's thread.

States lie in memory that Python owns, so nothing has to be freed and nothing can leak. libopus keeps no state
of its own: objects on different threads do not meet; one object is for one thread at a time.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from parley_opus.errors import OpusError, OpusUnavailable
from parley_opus.packets import MAX_SAMPLES_48K, OpusSettings

_NAMES = {
    "darwin": ("libopus.0.dylib", "/opt/homebrew/lib/libopus.0.dylib", "/usr/local/lib/libopus.0.dylib"),
    "win32": ("opus.dll", "libopus-0.dll"),
}
_LINUX = ("libopus.so.0",)
REMEDY = "install libopus (Debian and Ubuntu: apt-get install libopus0; macOS: brew install opus)"

_OK = 0
_APPLICATION_VOIP = 2048
_SIGNAL_VOICE = 3001
_SET_BITRATE = 4002
_SET_MAX_BANDWIDTH = 4004
_SET_COMPLEXITY = 4010
_SET_INBAND_FEC = 4012
_SET_PACKET_LOSS_PERC = 4014
_SET_SIGNAL = 4024
_GET_LOOKAHEAD = 4027
_RESET_STATE = 4028
_BANDWIDTHS = {8000: 1101, 16000: 1103, 24000: 1104, 48000: 1105}
_MAX_PACKET_BYTES = 4000
_CHANNELS = 1

_Int32 = ctypes.c_int32
_Int = ctypes.c_int
_State = ctypes.c_void_p


@cache
def _load() -> Any:
    """The library, its functions declared. OpusUnavailable: it is not there; the next call tries again."""
    library = None
    for name in _NAMES.get(sys.platform, _LINUX):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        raise OpusUnavailable(f"libopus is not installed: {REMEDY}")
    library.opus_strerror.restype = ctypes.c_char_p
    library.opus_get_version_string.restype = ctypes.c_char_p
    library.opus_encoder_init.argtypes = (_State, _Int32, _Int, _Int)
    library.opus_decoder_init.argtypes = (_State, _Int32, _Int)
    # The rest of their arguments is of any type: what stands here is what is fixed.
    library.opus_encoder_ctl.argtypes = (_State, _Int)
    library.opus_decoder_ctl.argtypes = (_State, _Int)
    library.opus_encode.argtypes = (_State, ctypes.c_char_p, _Int, ctypes.c_void_p, _Int32)
    library.opus_encode.restype = _Int32
    library.opus_decode.argtypes = (_State, ctypes.c_char_p, _Int32, ctypes.c_void_p, _Int, _Int)
    return library


def version() -> str:
    """Of the library, such as `libopus 1.3.1`. OpusUnavailable: it is not there."""
    return str(_load().opus_get_version_string().decode())


def _checked(library: Any, result: int) -> int:
    if result < _OK:
        raise OpusError(str(library.opus_strerror(result).decode()))
    return result


class Encoder:
    """Speech to packets: `rate` samples a second in, 16-bit little-endian.

    `audible` caps the audio bandwidth at what that rate can carry, where it is below `rate`.

    Raises:
        OpusUnavailable: libopus is not installed.
        OpusError: the rate is none of OPUS_RATES.
    """

    def __init__(self, rate: int, settings: OpusSettings | None = None, audible: int = 48_000) -> None:
        self._library = _load()
        self._encode = self._library.opus_encode
        self._state = ctypes.create_string_buffer(self._library.opus_encoder_get_size(_CHANNELS))
        self._packet = ctypes.create_string_buffer(_MAX_PACKET_BYTES)
        self._view = memoryview(self._packet)
        _checked(
            self._library,
            self._library.opus_encoder_init(self._state, rate, _CHANNELS, _APPLICATION_VOIP),
        )
        settings = settings or OpusSettings()
        for request, value in (
            (_SET_BITRATE, settings.bitrate),
            (_SET_COMPLEXITY, settings.complexity),
            (_SET_SIGNAL, _SIGNAL_VOICE),
            (_SET_MAX_BANDWIDTH, _BANDWIDTHS[audible]),
            (_SET_INBAND_FEC, 1 if settings.expected_loss else 0),
            (_SET_PACKET_LOSS_PERC, settings.expected_loss),
        ):
            self._control(request, _Int32(value))
        lookahead = _Int32()
        self._control(_GET_LOOKAHEAD, ctypes.byref(lookahead))
        self.delay_ms = lookahead.value * 1000 / rate
        """How far the decoded audio trails what was encoded."""

    def _control(self, request: int, *argument: Any) -> None:
        _checked(self._library, self._library.opus_encoder_ctl(self._state, request, *argument))

    def encode(self, pcm: bytes) -> bytes:
        """One packet of 2.5, 5, 10, 20, 40 or 60 ms of samples. OpusError: they are of another length."""
        size = self._encode(self._state, pcm, len(pcm) >> 1, self._packet, _MAX_PACKET_BYTES)
        if size < 0:
            _checked(self._library, size)
        return self._view[:size].tobytes()

    def reset(self) -> None:
        """Forget what was encoded: the next packet stands for itself."""
        self._control(_RESET_STATE)


class Decoder:
    """Packets to `rate` samples a second, 16-bit little-endian, one channel; a stereo packet is mixed down.

    Raises:
        OpusUnavailable: libopus is not installed.
        OpusError: the rate is none of OPUS_RATES.
    """

    def __init__(self, rate: int) -> None:
        self._library = _load()
        self._decode = self._library.opus_decode
        self._state = ctypes.create_string_buffer(self._library.opus_decoder_get_size(_CHANNELS))
        self._room = MAX_SAMPLES_48K * rate // 48_000
        self._pcm = ctypes.create_string_buffer(self._room * 2)
        self._view = memoryview(self._pcm)
        _checked(self._library, self._library.opus_decoder_init(self._state, rate, _CHANNELS))

    def decode(self, packet: bytes) -> bytes:
        """The samples of a packet, at most 120 ms. OpusError: it is none, or broken."""
        return self._samples(packet, self._room, 0)

    def conceal(self, samples: int, following: bytes | None = None) -> bytes:
        """So many samples for what was lost, a multiple of 2.5 ms and at most 120.

        They are made up, or taken from the packet that came next where that carries the lost one a second
        time. OpusError: `following` is no packet.
        """
        return self._samples(following, samples, 1 if following else 0)

    def _samples(self, packet: bytes | None, room: int, recover: int) -> bytes:
        size = len(packet) if packet is not None else 0
        count = self._decode(self._state, packet, size, self._pcm, room, recover)
        if count < 0:
            _checked(self._library, count)
        return self._view[: count * 2].tobytes()

    def reset(self) -> None:
        """Forget what was decoded."""
        _checked(self._library, self._library.opus_decoder_ctl(self._state, _RESET_STATE))
