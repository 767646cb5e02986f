"""The opening handshake of a WebSocket whose frames something else reads. No I/O.

The answer is judged by the same code of `websockets` as in the reference, so both refuse the same.
"""

from __future__ import annotations

from websockets.client import ClientProtocol
from websockets.headers import build_host
from websockets.protocol import State
from websockets.uri import WebSocketURI

from parley_realtime.transport.seam import socket_logger

_END = b"\r\n\r\n"


class Opening:
    """Takes the bytes of the answer until it is known: `done`, or `error` says why not."""

    def __init__(self, uri: WebSocketURI, key: str) -> None:
        self._protocol = ClientProtocol(uri, max_size=None, logger=socket_logger)
        self._protocol.key = key
        self._head = bytearray()
        self._in_body = False
        self.done = False
        self.error: Exception | None = None
        self.rest = b""
        """What came behind the answer: frames."""

    def received(self, data: bytes) -> None:
        """More bytes."""
        if self._in_body:
            self._protocol.receive_data(data)
        else:
            self._read_head(data)
        self.error = self._protocol.handshake_exc

    def _read_head(self, data: bytes) -> None:
        before = len(self._head)
        self._head += data
        end = self._head.find(_END, max(0, before - len(_END)))
        if end < 0:
            self._protocol.receive_data(data)
            return
        cut = end + len(_END) - before
        self._protocol.receive_data(data[:cut])
        if self._protocol.state is State.OPEN:
            self.done, self.rest = True, data[cut:]
        elif cut < len(data) and self._protocol.handshake_exc is None:
            self._protocol.receive_data(data[cut:])
        self._in_body = True

    def ended(self) -> Exception:
        """The other side is gone before the answer was complete."""
        if self._protocol.handshake_exc is None:
            self._protocol.receive_eof()
        return self._protocol.handshake_exc or EOFError("the connection was closed")


def host_header(uri: WebSocketURI) -> str:
    """Host and port as they stand in the request."""
    return build_host(uri.host, uri.port, uri.secure)
