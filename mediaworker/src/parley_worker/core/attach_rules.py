"""Who may attach to a session now. Pure."""

from __future__ import annotations

from parley_worker.core.events import AttachRequest, CredentialKind, LegRefusal, Status
from parley_worker.core.model import SessionConfig, SessionState

NOT_READY = "session-not-ready"


def refusal(
    request: AttachRequest, config: SessionConfig, state: SessionState, *, ticket_used: bool, unix: float
) -> LegRefusal | None:
    """Why this caller may not attach at `unix` (seconds), or None. Resume tokens are judged elsewhere.

    `ticket_used`: somebody has attached, or may have where an earlier attempt cannot tell.
    """
    kind = request.credential
    if request.session_uid and request.session_uid != config.key.uid:
        return LegRefusal(
            Status.PERMISSION_DENIED,
            "other-session",
            "the credential belongs to another session than start.session_uid names",
            "start.session_uid",
        )
    if state is SessionState.ENDED:
        return LegRefusal(Status.FAILED_PRECONDITION, "session-ended", "the session is over")
    if state is SessionState.CONNECTING:
        return LegRefusal(Status.UNAVAILABLE, NOT_READY, "the provider is not connected yet: try again")
    if kind is CredentialKind.RESUME:
        return None
    if kind is CredentialKind.NONE and config.access.ticket_sha256:
        return LegRefusal(Status.UNAUTHENTICATED, "credential-missing", "start has no ticket", "start.ticket")
    if ticket_used and config.key.attempt > 1:
        # Whoever was attached to a worker that was lost may have nothing else.
        return None
    if ticket_used:
        return LegRefusal(
            Status.UNAUTHENTICATED,
            "ticket-used",
            "the ticket was used: attach again with the resume token of Started",
            "start.ticket",
        )
    expires = config.access.ticket_expires_at
    if expires is not None and unix >= expires:
        return LegRefusal(Status.UNAUTHENTICATED, "ticket-expired", "the ticket has expired", "start.ticket")
    return None
