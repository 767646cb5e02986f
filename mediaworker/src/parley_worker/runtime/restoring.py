"""Brings back what an earlier placement of a session left: from the journal, or from the worker it leaves."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from parley_worker.core.model import RestoreMode, SessionConfig, SessionKey
from parley_worker.core.restored import Restored, from_hand_over, from_journal, holes_in
from parley_worker.transport.nats_journal import Journals, JournalTaken, JournalUnavailable

log = logging.getLogger(__name__)


class JournalSink(Protocol):
    """The way of records to the journal."""

    def chain(self, key: SessionKey, position: int) -> None:
        """The next record of this placement is stored only behind that sequence of the stream."""

    async def flushed(self, key: SessionKey, timeout: float) -> bool:
        """Wait until the journal's records are stored; false where they are not in time, or cannot be."""


class Restorer:
    """For all sessions of a process. Without `journals` nothing was written down."""

    def __init__(self, journals: Journals | None = None, sink: JournalSink | None = None) -> None:
        self._journals, self._sink = journals, sink

    @property
    def journals(self) -> bool:
        """Whether there are journals, so that a stale worker can find out that it is."""
        return self._journals is not None

    async def restore(self, config: SessionConfig) -> Restored | None:
        """What there is to go on with; None when a newer attempt has the session already.

        Never fails: what cannot be had is named in `degraded`, and the conversation begins anew.
        """
        restore = config.restore
        assert restore is not None
        try:
            if restore.hand_over is not None:
                restored = await self._handed_over(config)
            else:
                restored = await self._from_journal(config)
        except JournalTaken:
            return None
        if restore.mode is RestoreMode.RESTART:
            return restored.fresh()
        restored = replace(restored, changes=restored.changes.still(config.session))
        if restored.degraded:
            log.warning("session %s is not restored as it was: %s", config.key.uid, restored.degraded)
        return restored

    async def _from_journal(self, config: SessionConfig) -> Restored:
        assert config.restore is not None
        if config.privacy:
            return Restored(degraded="the session is private: nothing of the conversation is written down")
        if self._journals is None or self._sink is None:
            return Restored(degraded="the worker has no NATS: there is no journal to read")
        try:
            taken = await self._journals.take_over(config.key, config.restore.mode)
        except JournalUnavailable as error:
            return Restored(degraded=f"the journal could not be read: {error}")
        self._sink.chain(config.key, taken.position)
        ga = config.provider.api_version == "ga"
        holes = 0 if taken.cut else holes_in(taken.numbers)
        restored = from_journal(taken.records, ga=ga, holes=holes, cut=taken.cut)
        return replace(restored, taken_over=True)

    async def _handed_over(self, config: SessionConfig) -> Restored:
        """The journal is left to the other worker until the caller is here."""
        restore = config.restore
        assert restore is not None
        given = restore.hand_over
        assert given is not None
        restored = from_hand_over(given)
        if self._journals is None or self._sink is None or config.privacy:
            return (
                restored if given.whole else replace(restored, degraded="it was too long to be handed over")
            )
        try:
            taken = await self._journals.take_over(config.key, restore.mode, write=False)
        except JournalUnavailable as error:
            degraded = "" if given.whole else f"the journal could not be read: {error}"
            return replace(restored, degraded=degraded)
        self._sink.chain(config.key, taken.position)
        if given.whole:
            return restored
        read = from_journal(taken.records, ga=config.provider.api_version == "ga", cut=taken.cut)
        return replace(restored, items=read.items, words=read.words, calls=read.calls, degraded=read.degraded)

    async def flushed(self, key: SessionKey, timeout: float) -> bool:
        """See JournalSink; true where there is no journal."""
        return self._sink is None or await self._sink.flushed(key, timeout)
