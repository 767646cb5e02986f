"""A spoken conversation by pipecat: its OpenAI Realtime service in a pipeline between two transports."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from loguru import logger

logger.remove()
logger.add(sys.stderr, level="WARNING")

from peer_side import RATE, Ear, Mouth, background, hold, main, report  # noqa: E402
from pipecat.frames.frames import (  # noqa: E402
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMRunFrame,
    OutputAudioRawFrame,
    StartFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.pipeline.worker import PipelineParams, PipelineWorker  # noqa: E402
from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair  # noqa: E402
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor  # noqa: E402
from pipecat.services.openai.realtime import events  # noqa: E402
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService  # noqa: E402
from pipecat.transports.base_input import BaseInputTransport  # noqa: E402
from pipecat.transports.base_output import BaseOutputTransport  # noqa: E402
from pipecat.transports.base_transport import TransportParams  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402


class Microphone(BaseInputTransport):
    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def speak(self, pcm: bytes) -> None:
        await self.push_audio_frame(InputAudioRawFrame(audio=pcm, sample_rate=RATE, num_channels=1))


class Loudspeaker(BaseOutputTransport):
    """Takes as long for a frame as the frame lasts, as a sound card does."""

    def __init__(self, params: TransportParams, ear: Ear) -> None:
        super().__init__(params)
        self._ear = ear
        self._due = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        loop = asyncio.get_running_loop()
        if any(frame.audio):
            self._ear.hear(frame.audio)
        self._due = max(self._due, loop.time()) + len(frame.audio) / 2 / frame.sample_rate
        await asyncio.sleep(max(0.0, self._due - loop.time()))
        return True


class Watcher(FrameProcessor):
    """Behind the service: tells of interruptions while the agent speaks, and of errors."""

    def __init__(self, ear: Ear) -> None:
        super().__init__()
        self._ear = ear

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            self._ear.interrupted()
        elif isinstance(frame, ErrorFrame):
            report("error", error=frame.error)
        await self.push_frame(frame, direction)


class Transcripts(FrameProcessor):
    """Before the service, where it sends transcripts to."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            report("history", item="", words=frame.text)
        await self.push_frame(frame, direction)


async def run(plan: dict[str, Any]) -> None:
    turns = events.TurnDetection(type="server_vad", silence_duration_ms=700)
    audio = events.AudioConfiguration(
        input=events.AudioInput(
            transcription=events.InputAudioTranscription(model="whisper-1"), turn_detection=turns
        ),
        output=events.AudioOutput(voice="alloy"),
    )
    service = OpenAIRealtimeLLMService(
        api_key=plan["key"],
        base_url=plan["url"],
        settings=OpenAIRealtimeLLMService.Settings(
            model="gpt-realtime",
            system_instruction="Ask for the caller's code.",
            session_properties=events.SessionProperties(audio=audio),
        ),
    )
    ear = Ear()
    params = TransportParams(
        audio_in_enabled=True,
        audio_in_sample_rate=RATE,
        audio_out_enabled=True,
        audio_out_sample_rate=RATE,
        audio_out_auto_silence=False,
    )
    microphone, loudspeaker = Microphone(params), Loudspeaker(params, ear)
    aggregators = LLMContextAggregatorPair(LLMContext())
    pipeline = Pipeline(
        [
            microphone, aggregators.user(), Transcripts(), service, Watcher(ear), loudspeaker,
            aggregators.assistant(),
        ]
    )  # fmt: skip
    worker = PipelineWorker(
        pipeline, params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    mouth = Mouth(microphone.speak)
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_started(worker: PipelineWorker, frame: StartFrame) -> None:
        started.set()

    async with background(runner.run()):
        await started.wait()
        await worker.queue_frames([LLMRunFrame()])
        async with background(mouth.run()):
            await hold(plan, mouth, ear)
        await worker.cancel()


if __name__ == "__main__":
    main(run)
