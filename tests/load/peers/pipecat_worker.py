"""pipecat as its documentation sets a telephone agent up: one process, a pipeline for each Twilio media
stream.

FastAPI WebSocket transport, Twilio serializer (mu-law 8 kHz), OpenAI Realtime service, context aggregators.
It resamples and keeps the conversation's context; logging is at WARNING. Prints one line of JSON when
ready.
"""

from __future__ import annotations

import argparse
import inspect
import json
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

RATE = 8000


async def started(socket: WebSocket) -> dict[str, Any]:
    """The `start` of a Twilio media stream."""
    async for text in socket.iter_text():
        message = json.loads(text)
        if message.get("event") == "start":
            start: dict[str, Any] = message["start"]
            return start
    raise RuntimeError("the stream ended before its start")


def service(provider: str, sid: int) -> OpenAIRealtimeLLMService:
    """The provider's side of a call; `sid` tells the load program which call it is."""
    audio = events.AudioConfiguration(input=events.AudioInput(turn_detection=events.TurnDetection()))
    settings = OpenAIRealtimeLLMService.Settings(
        model="gpt-realtime",
        system_instruction=f"You are a helpful phone agent. sid={sid}",
        session_properties=events.SessionProperties(audio=audio),
    )
    return OpenAIRealtimeLLMService(api_key="sk-bench", base_url=provider, settings=settings)


async def hold(stream: WebSocket, provider: str) -> None:
    """One call, until the caller hangs up."""
    await stream.accept()
    start = await started(stream)
    parameters = TwilioFrameSerializer.InputParams(auto_hang_up=False)
    serializer = TwilioFrameSerializer(
        stream_sid=start["streamSid"], call_sid=start["callSid"], params=parameters
    )
    transport = FastAPIWebsocketTransport(
        websocket=stream,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True, audio_out_enabled=True, add_wav_header=False, serializer=serializer
        ),
    )
    aggregators = LLMContextAggregatorPair(LLMContext())
    model = service(provider, int(start["streamSid"].removeprefix("MZ")))
    parts = [transport.input(), aggregators.user(), model, transport.output(), aggregators.assistant()]
    params = PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    worker = PipelineWorker(Pipeline(parts), params=params)

    @transport.event_handler("on_client_disconnected")
    async def gone(transport: Any, client: Any) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    added = runner.add_workers(worker)
    if inspect.isawaitable(added):
        await added
    await runner.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", required=True, help="ws:// or wss:// URL of the provider")
    parser.add_argument("--tls", type=Path, help="folder with tls.crt and tls.key, for callers")
    options = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    app = FastAPI()

    @app.websocket("/ws")
    async def call(stream: WebSocket) -> None:
        await hold(stream, options.provider)

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1]
    tls = (
        {"ssl_certfile": str(options.tls / "tls.crt"), "ssl_keyfile": str(options.tls / "tls.key")}
        if options.tls
        else {}
    )
    config = uvicorn.Config(app, loop="uvloop", log_level="warning", ws="auto", **tls)
    scheme = "wss" if options.tls else "ws"

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print(json.dumps({"endpoint": f"{scheme}://127.0.0.1:{port}/ws"}), flush=True)

    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
