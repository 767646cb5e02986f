"""Between the connection that serves and the client: what the provider says is kept, and passed on."""

from __future__ import annotations

from collections.abc import Callable

from parley_realtime.client.intake import Hearer
from parley_realtime.events import MediaChunk
from parley_realtime.protocol.core import ServerEvent
from parley_realtime.protocol.keeper import ConversationKeeper


class Following:
    """See the module; without a keeper nothing is kept. `clock` counts seconds.

    `on_word` is told the type of an event that changes what is waited for: a response that begins, and while
    the connection is not `proven` the first event that is no error.
    """

    def __init__(
        self,
        keeper: ConversationKeeper | None,
        hearer: Hearer,
        clock: Callable[[], float],
        on_word: Callable[[str], None],
    ) -> None:
        self._keeper = keeper
        self._hearer = hearer
        self._clock = clock
        self._on_word = on_word
        self.proven = True

    def received(self, event: ServerEvent) -> None:
        """See Hearer."""
        if self._keeper is not None and not self._keeper.server(event.payload, self._clock()):
            return
        kind = event.type
        if kind == "response.created" or (not self.proven and kind != "error"):
            self._on_word(kind)
        self._hearer.received(event)

    def audio(self, chunk: MediaChunk) -> None:
        """See Hearer."""
        if self._keeper is not None:
            size = len(chunk.payload)
            self._keeper.audio(chunk.response_id, chunk.item_id, chunk.content_index, size, self._clock())
        self._hearer.audio(chunk)
