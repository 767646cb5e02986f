"""What the media server and the sessions know of each other."""

from __future__ import annotations

from typing import Protocol

from parley_worker.core.effects import ToLeg
from parley_worker.core.events import AttachRequest, LegCommand, LegRefusal
from parley_worker.core.media_path import OutFrame


class LegPort(Protocol):
    """One caller's stream, as a session sees it. Nothing here blocks or raises."""

    def send(self, message: ToLeg) -> None:
        """Queue a message. A full queue ends the leg as a slow reader."""

    def send_audio(self, frame: OutFrame) -> None:
        """Queue a frame of agent audio, under the same rule."""

    def drop_audio(self) -> dict[tuple[str, int], int]:
        """Forget audio and marks that are queued and not yet written.

        Returns, by item and content index, the position in milliseconds of the first audio forgotten.
        """

    def audio_room(self) -> int:
        """Bytes of audio that the queue still takes."""

    def queued_bytes(self) -> int:
        """Bytes that wait to be written, audio and all else."""

    def finish(self, refusal: LegRefusal | None) -> None:
        """End the stream after what is queued: status OK, or the refusal's. The first call counts."""


class HearFrame(Protocol):
    """Takes one frame of caller audio; a refusal ends the leg."""

    def __call__(
        self, leg: LegPort, payload: bytes, sequence: int, media_time_ms: int, /
    ) -> LegRefusal | None: ...


class SessionPort(Protocol):
    """A session, as a leg sees it."""

    async def wait_ready(self) -> None:
        """Return when the session has left CONNECTING; bounded by the provider's connect timeout."""

    @property
    def provider_rate(self) -> int:
        """Samples a second of the provider's audio."""

    def frames_concealed(self, cause: str, frames: int) -> None:
        """Frames of caller audio were made up; `cause` is `lost` or `undecodable`."""

    def attach(self, request: AttachRequest, leg: LegPort) -> LegRefusal | None:
        """Take the leg, replacing an older one, or say why not."""

    @property
    def leg_audio(self) -> HearFrame:
        """Takes frames of caller audio."""

    def leg_message(self, leg: LegPort, message: LegCommand) -> LegRefusal | None:
        """Anything else the caller says; a refusal ends the leg."""

    def leg_room(self, leg: LegPort) -> None:
        """The leg's queue has room again."""

    def leg_lost(self, leg: LegPort, cause: str) -> None:
        """The leg is gone. Causes as in events.v1.LegDetached. A leg that was replaced is ignored."""


class SessionDirectory(Protocol):
    """Finds sessions by what a caller shows. Ended sessions are not found."""

    def find_by_ticket(self, ticket_sha256: bytes) -> SessionPort | None: ...

    def find_by_resume(self, token_sha256: bytes) -> SessionPort | None: ...

    def find_by_uid(self, uid: str) -> SessionPort | None: ...
