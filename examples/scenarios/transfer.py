"""Hands the caller over: the model calls `connect_to`, the scenario says so and asks for the transfer."""

from __future__ import annotations

from typing import Any

from parley_scenario import CallEvents, Context


async def main(ctx: Context) -> None:
    """Register the function that the spec routes here, and what happens when a transfer fails."""
    departments = ctx.parameters["departments"]

    @ctx.tool("connect_to")
    def connect_to(arguments: dict[str, Any]) -> dict[str, str]:
        department = str(arguments.get("department", "")).lower()
        if department not in departments:
            return {"error": f"there is no {department!r}: choose one of {', '.join(departments)}"}
        ctx.spawn(move(ctx, department, departments[department]))
        return {"result": "the caller is being connected; say nothing more"}

    def failed(event: Any) -> None:
        ctx.log.error("transfer:", event.data["message"])

    ctx.caller.add_event_listener(CallEvents.TransferFailed, failed)


async def move(ctx: Context, department: str, target: str) -> None:
    """Tell the caller, and then ask for the transfer."""
    await ctx.say(f"I am connecting you to {department}. One moment, please.")
    ctx.caller.transfer(target, note=f"session {ctx.session.uid}, wants {department}")
