"""Objects inside beta events: sessions, tools, items, responses."""

from typing import Any, Literal, Required, TypedDict

from parley_realtime.payloads.common import ItemStatus, OutputTokenDetails, ResponseStatus, StatusDetails

AudioFormat = Literal["pcm16", "g711_ulaw", "g711_alaw"]


class NoiseReduction(TypedDict, total=False):
    """Filtering of the caller's audio."""

    type: Literal["near_field", "far_field"]


class Transcription(TypedDict, total=False):
    """How the caller's words are written down."""

    model: str
    language: str
    prompt: str


class TurnDetection(TypedDict, total=False):
    """Turns by silence or by meaning (`eagerness`). Times in milliseconds."""

    type: Literal["server_vad", "semantic_vad"]
    threshold: float
    prefix_padding_ms: int
    silence_duration_ms: int
    create_response: bool
    interrupt_response: bool
    eagerness: Literal["low", "medium", "high", "auto"]


class FunctionTool(TypedDict, total=False):
    """A function the model may call; `parameters` is a JSON schema."""

    type: Required[Literal["function"]]
    name: Required[str]
    description: str
    parameters: dict[str, Any]


class TracingConfiguration(TypedDict, total=False):
    """The provider's own tracing."""

    workflow_name: str
    group_id: str
    metadata: dict[str, Any]


class ClientSecret(TypedDict):
    """A key for a browser. `expires_at`: seconds since 1970."""

    value: str
    expires_at: int


class SessionSettings(TypedDict, total=False):
    """What a session update may say; what is left out stays as it is. The client sets formats by itself."""

    model: str
    modalities: list[Literal["text", "audio"]]
    instructions: str
    voice: str
    input_audio_format: AudioFormat
    output_audio_format: AudioFormat
    input_audio_transcription: Transcription | None
    input_audio_noise_reduction: NoiseReduction | None
    turn_detection: TurnDetection | None
    tools: list[FunctionTool]
    tool_choice: str
    temperature: float
    max_response_output_tokens: int | Literal["inf"]
    speed: float
    tracing: Literal["auto"] | TracingConfiguration | None
    include: list[str] | None


class Session(SessionSettings, total=False):
    """A session as the provider has it. `expires_at`: seconds since 1970."""

    id: Required[str]
    object: Literal["realtime.session"]
    expires_at: int


class TranscriptionSettings(TypedDict, total=False):
    """What an update may say of a transcription session."""

    input_audio_format: AudioFormat
    input_audio_transcription: Transcription | None
    input_audio_noise_reduction: NoiseReduction | None
    turn_detection: TurnDetection | None
    include: list[str] | None


class TranscriptionSession(TranscriptionSettings, total=False):
    """A transcription session as the provider has it."""

    id: str
    object: Literal["realtime.transcription_session"]
    expires_at: int
    client_secret: ClientSecret | None
    modalities: list[Literal["text", "audio"]]


class Content(TypedDict, total=False):
    """A part of a message."""

    type: Required[Literal["input_text", "input_audio", "item_reference", "text", "audio"]]
    id: str
    text: str
    audio: str
    transcript: str | None


class Item(TypedDict, total=False):
    """An item of any kind: a message has `role` and `content`, a call `name`, `call_id` and `arguments`."""

    id: str
    object: Literal["realtime.item"]
    type: Required[Literal["message", "function_call", "function_call_output"]]
    status: ItemStatus
    role: Literal["user", "assistant", "system"]
    content: list[Content]
    call_id: str
    name: str
    arguments: str
    output: str


class ItemReference(TypedDict):
    """In the input of a response: an item of the conversation."""

    type: Literal["item_reference"]
    id: str


class InputTokenDetails(TypedDict, total=False):
    """Tokens by kind."""

    text_tokens: int
    audio_tokens: int
    cached_tokens: int


class Usage(TypedDict, total=False):
    """Tokens of a response."""

    total_tokens: Required[int]
    input_tokens: Required[int]
    output_tokens: Required[int]
    input_token_details: InputTokenDetails
    output_token_details: OutputTokenDetails


class Response(TypedDict, total=False):
    """A response; `output` is empty until it is done."""

    id: Required[str]
    object: Literal["realtime.response"]
    status: Required[ResponseStatus]
    status_details: Required[StatusDetails | None]
    output: Required[list[Item]]
    conversation_id: str | None
    modalities: list[Literal["text", "audio"]]
    voice: str
    output_audio_format: AudioFormat
    temperature: float
    max_output_tokens: int | Literal["inf"]
    metadata: dict[str, str] | None
    usage: Usage | None


class ResponseSettings(TypedDict, total=False):
    """What is different in a single response."""

    modalities: list[Literal["text", "audio"]]
    instructions: str
    voice: str
    output_audio_format: AudioFormat
    tools: list[FunctionTool]
    tool_choice: str
    temperature: float
    max_response_output_tokens: int | Literal["inf"]
    conversation: str
    metadata: dict[str, str] | None
    input: list[Item | ItemReference]
