"""livekit-agents as its documentation sets an agent up: a process for each job, AgentSession with OpenAI
Realtime.

Besides the speech-to-speech bridge it does WebRTC: Opus both ways, SRTP, jitter buffers; and its default turn
handling. `LIVEKIT_URL`, `LIVEKIT_API_KEY` and `LIVEKIT_API_SECRET` say where the server is,
`BENCH_PROVIDER` where the provider is, `BENCH_IDLE` how many processes are kept ready. The room
`room-<sid>` names the call.
"""

from __future__ import annotations

import os
from typing import Any

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, JobExecutorType, cli
from livekit.plugins import openai

EXECUTORS = {"process": JobExecutorType.PROCESS, "thread": JobExecutorType.THREAD}


def no_load(*_: Any) -> float:
    """The bench decides how many jobs come: the worker must not refuse them by its own estimate."""
    return 0.0


server = AgentServer(
    job_executor_type=EXECUTORS[os.environ.get("BENCH_EXECUTOR", "process")],
    num_idle_processes=int(os.environ.get("BENCH_IDLE", "2")),
    load_threshold=0.99,
    load_fnc=no_load,
    initialize_process_timeout=60.0,
    host="127.0.0.1",
    port=0,
)


@server.rtc_session(agent_name="bench")
async def hold(context: JobContext) -> None:
    """One call."""
    sid = int(context.room.name.removeprefix("room-"))
    model = openai.realtime.RealtimeModel(
        base_url=os.environ["BENCH_PROVIDER"], api_key="sk-bench", model="gpt-realtime"
    )
    agent = Agent(instructions=f"You are a helpful phone agent. sid={sid}")
    await AgentSession(llm=model).start(agent=agent, room=context.room)


if __name__ == "__main__":
    cli.run_app(server)
