"""Where the audio of a unit goes: every attached unit in the format that it takes. No clock, no I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from parley_realtime.audio import Converter, SampleFormat, converter
from parley_realtime.client.parameters import SendMediaParameters
from parley_realtime.events import MediaChunk, MediaSource, MediaUnit
from parley_realtime.formats import encoding_name, wanted_format

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Outlet:
    unit: MediaUnit
    convert: Converter | None


class Outlets:
    """The units that hear one source. One that raises is detached; the others go on."""

    def __init__(self, source: MediaSource, audio: SampleFormat) -> None:
        self._source, self.audio = source, audio
        self._outlets: list[_Outlet] = []

    def __len__(self) -> int:
        return len(self._outlets)

    def attach(
        self, unit: MediaUnit, parameters: SendMediaParameters | Mapping[str, Any] | None = None
    ) -> None:
        """Attach, or attach anew. ValueError: the encoding cannot be had."""
        if isinstance(parameters, Mapping):
            parameters = SendMediaParameters(**parameters)
        if id(unit) == id(self._source):
            raise ValueError("a media unit cannot be sent to itself")
        samples = wanted_format(unit, parameters.encoding if parameters else None, self.audio)
        self.detach(unit)
        outlet = _Outlet(unit, converter(self.audio, samples) if samples != self.audio else None)
        self._outlets.append(outlet)
        tag = parameters.tag if parameters else None
        custom = parameters.custom_parameters if parameters else {}
        name = encoding_name(samples)
        self._tell(
            outlet,
            lambda: unit.media_started(self._source, tag=tag, encoding=name, custom_parameters=custom),
        )

    def detach(self, unit: MediaUnit) -> None:
        """A unit that is not attached is ignored."""
        gone = [outlet for outlet in self._outlets if outlet.unit is unit]
        self._outlets = [outlet for outlet in self._outlets if outlet.unit is not unit]
        for outlet in gone:
            stopped = getattr(unit, "media_stopped", None)
            if callable(stopped):
                self._tell(outlet, partial(stopped, self._source))

    def send(self, payload: bytes) -> None:
        """Whole samples in the source's format."""
        for outlet in tuple(self._outlets):
            ready = payload if outlet.convert is None else outlet.convert.convert(payload)
            if ready:
                self._give(outlet, ready)

    def done(self) -> None:
        """The source has come to an end: what conversion holds goes out, too."""
        for outlet in tuple(self._outlets):
            rest = b"" if outlet.convert is None else outlet.convert.flush()
            if rest:
                self._give(outlet, rest)
            done = partial(outlet.unit.media_done, self._source, response_id="", item_id="", content_index=0)
            self._tell(outlet, done)

    def clear(self) -> None:
        """Units forget what they were sent and did not play."""
        for outlet in tuple(self._outlets):
            if outlet.convert is not None:
                outlet.convert.flush()
            self._tell(outlet, partial(outlet.unit.media_cleared, self._source))

    def _give(self, outlet: _Outlet, payload: bytes) -> None:
        chunk = MediaChunk(payload, "", "", 0)
        self._tell(outlet, lambda: outlet.unit.media(self._source, chunk))

    def _tell(self, outlet: _Outlet, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as exc:  # noqa: BLE001 - another party's code: it loses its audio, the others go on
            self._outlets = [kept for kept in self._outlets if kept is not outlet]
            logger.error("a media unit is detached, it raised %s", type(exc).__name__)
