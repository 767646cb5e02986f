"""Transcription only: collects what the caller says, and hands it over when the call is over.

`parameters.url`, where there is one, gets the whole text by an HTTP POST; its host must be in the pool's
`media.allowedHosts`.
"""

from __future__ import annotations

from typing import Any

from parley_scenario import Context, RealtimeAPIEvents


async def main(ctx: Context) -> None:
    """Register handlers."""
    lines: list[str] = []

    def said(event: Any) -> None:
        lines.append(event.data["payload"]["transcript"].strip())
        ctx.log.info(f"{len(lines)}: {lines[-1]}")

    async def over(event: Any) -> None:
        body = {"session": ctx.session.uid, "reason": event.data["reason"], "lines": lines}
        await ctx.http.post(ctx.parameters["url"], body, timeout=1.0)

    ctx.client.add_event_listener(RealtimeAPIEvents.ConversationItemInputAudioTranscriptionCompleted, said)
    if "url" in ctx.parameters:
        ctx.on_terminating(over)
