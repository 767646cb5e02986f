"""Objects inside GA events: sessions, tools, items, responses."""

from typing import Any, Literal, NotRequired, Required, TypedDict

from parley_realtime.payloads.common import (
    CachedTokenDetails,
    ItemStatus,
    OutputTokenDetails,
    ResponseStatus,
    StatusDetails,
)


class AudioFormat(TypedDict, total=False):
    """`rate` is 24000 and goes with `audio/pcm`. The client sets formats by itself."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Literal[24000]


class NoiseReduction(TypedDict, total=False):
    """Filtering of the caller's audio."""

    type: Literal["near_field", "far_field"]
    strength: float


class Transcription(TypedDict, total=False):
    """How the caller's words are written down."""

    model: str
    language: str
    prompt: str
    delay: Literal["minimal", "low", "medium", "high", "xhigh"]
    keywords: list[str]
    languages: list[str]


class ServerVad(TypedDict, total=False):
    """Turns by silence. Times in milliseconds."""

    type: Required[Literal["server_vad"]]
    threshold: float
    prefix_padding_ms: int
    silence_duration_ms: int
    create_response: bool
    interrupt_response: bool
    idle_timeout_ms: int | None


class SemanticVad(TypedDict, total=False):
    """Turns by meaning."""

    type: Required[Literal["semantic_vad"]]
    eagerness: Literal["low", "medium", "high", "auto"]
    create_response: bool
    interrupt_response: bool


class AudioInput(TypedDict, total=False):
    """The caller's side."""

    format: AudioFormat
    noise_reduction: NoiseReduction | None
    transcription: Transcription | None
    turn_detection: ServerVad | SemanticVad | None


class CustomVoice(TypedDict):
    """A voice made for an account."""

    id: str


class ResponseAudioOutput(TypedDict, total=False):
    """How a response sounds."""

    format: AudioFormat
    voice: str | CustomVoice


class AudioOutput(ResponseAudioOutput, total=False):
    """The agent's side."""

    speed: float


class AudioConfig(TypedDict, total=False):
    """Both sides."""

    input: AudioInput
    output: AudioOutput


class ResponseAudio(TypedDict, total=False):
    """Audio of a single response."""

    output: ResponseAudioOutput


class FunctionTool(TypedDict, total=False):
    """A function the model may call; `parameters` is a JSON schema."""

    type: Required[Literal["function"]]
    name: Required[str]
    description: str
    parameters: dict[str, Any]


class MCPTool(TypedDict, total=False):
    """An MCP server that the provider calls by itself."""

    type: Required[Literal["mcp"]]
    server_label: Required[str]
    server_url: str
    connector_id: str
    authorization: str
    headers: dict[str, str] | None
    allowed_tools: list[str] | dict[str, Any] | None
    require_approval: Literal["always", "never"] | dict[str, Any] | None
    server_description: str
    allowed_callers: list[str] | None
    defer_loading: bool
    tunnel_id: str


Tool = FunctionTool | MCPTool


class ChosenFunction(TypedDict):
    """The model has to call this function."""

    type: Literal["function"]
    name: str


class ChosenMCP(TypedDict, total=False):
    """The model has to use this MCP server."""

    type: Required[Literal["mcp"]]
    server_label: Required[str]
    name: str | None


ToolChoice = Literal["none", "auto", "required"] | ChosenFunction | ChosenMCP


class Reasoning(TypedDict, total=False):
    """How much the model thinks before it speaks."""

    effort: Literal["minimal", "low", "medium", "high", "xhigh"]


class TracingConfiguration(TypedDict, total=False):
    """The provider's own tracing."""

    workflow_name: str
    group_id: str
    metadata: dict[str, Any]


class RetentionRatio(TypedDict, total=False):
    """How much of a conversation that is too long is kept."""

    type: Required[Literal["retention_ratio"]]
    retention_ratio: Required[float]
    token_limits: dict[str, Any]


class Prompt(TypedDict, total=False):
    """A prompt kept with the provider."""

    id: Required[str]
    version: str | None
    variables: dict[str, Any] | None


Include = Literal["item.input_audio_transcription.logprobs"]


class CommonSettings(TypedDict, total=False):
    """What is the same in updates and in the session that the provider has."""

    model: str
    output_modalities: list[Literal["text", "audio"]]
    instructions: str
    audio: AudioConfig
    tools: list[Tool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    reasoning: Reasoning
    max_output_tokens: int | Literal["inf"]
    truncation: Literal["auto", "disabled"] | RetentionRatio
    tracing: Literal["auto"] | TracingConfiguration | None
    prompt: Prompt | None
    include: list[Include] | None


class SessionSettings(CommonSettings, total=False):
    """What a session update may say of a conversation; what is left out stays as it is."""

    type: Literal["realtime"]


class Session(CommonSettings, total=False):
    """A conversation's session as the provider has it. `expires_at`: seconds since 1970."""

    id: Required[str]
    type: Required[Literal["realtime"]]
    object: Literal["realtime.session"]
    expires_at: int


class TranscriptionAudioConfig(TypedDict, total=False):
    """Audio of a transcription session."""

    input: AudioInput


class TranscriptionSettings(TypedDict, total=False):
    """What a session update may say of a transcription."""

    type: Required[Literal["transcription"]]
    audio: TranscriptionAudioConfig
    include: list[Include] | None


class TranscriptionSession(TranscriptionSettings, total=False):
    """A transcription session as the provider has it."""

    id: Required[str]
    object: Literal["realtime.transcription_session"]
    expires_at: int


class SystemContent(TypedDict):
    """A part of a system message."""

    type: Literal["input_text"]
    text: str


class UserContent(TypedDict, total=False):
    """A part of a user's message. `audio` is base64 and comes with `ConversationItemRetrieved` only."""

    type: Required[Literal["input_text", "input_audio", "input_image"]]
    text: str
    audio: str
    transcript: str | None
    image_url: str
    detail: Literal["auto", "low", "high"]


class AssistantContent(TypedDict, total=False):
    """A part of an assistant's message."""

    type: Required[Literal["output_text", "output_audio"]]
    text: str
    audio: str
    transcript: str | None


class ItemFields(TypedDict, total=False):
    """What items of most kinds have."""

    id: str
    object: Literal["realtime.item"]
    status: ItemStatus


class SystemMessage(ItemFields):
    """A message of the system."""

    type: Literal["message"]
    role: Literal["system"]
    content: list[SystemContent]


class UserMessage(ItemFields):
    """A message of the caller."""

    type: Literal["message"]
    role: Literal["user"]
    content: list[UserContent]


class AssistantMessage(ItemFields):
    """A message of the agent."""

    type: Literal["message"]
    role: Literal["assistant"]
    content: list[AssistantContent]


class FunctionCall(ItemFields):
    """The model calls a function. `arguments` is JSON text."""

    type: Literal["function_call"]
    name: str
    arguments: str
    call_id: NotRequired[str]


class FunctionCallOutput(ItemFields):
    """What a function gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str


class MCPToolDescription(TypedDict, total=False):
    """A tool of an MCP server."""

    name: Required[str]
    input_schema: Required[dict[str, Any]]
    description: str | None
    annotations: dict[str, Any] | None


class MCPListTools(TypedDict):
    """The tools of an MCP server."""

    type: Literal["mcp_list_tools"]
    server_label: str
    tools: list[MCPToolDescription]
    id: NotRequired[str]


class MCPError(TypedDict):
    """Why an MCP call failed; a `tool_execution_error` has no `code`."""

    type: Literal["protocol_error", "tool_execution_error", "http_error"]
    message: str
    code: NotRequired[int]


class MCPCall(TypedDict):
    """A call of an MCP server by the provider."""

    id: str
    type: Literal["mcp_call"]
    server_label: str
    name: str
    arguments: str
    output: NotRequired[str | None]
    error: NotRequired[MCPError | None]
    approval_request_id: NotRequired[str | None]


class MCPApprovalRequest(TypedDict):
    """The provider asks whether it may call an MCP server."""

    id: str
    type: Literal["mcp_approval_request"]
    server_label: str
    name: str
    arguments: str


class MCPApprovalResponse(TypedDict):
    """The answer to an MCPApprovalRequest."""

    id: str
    type: Literal["mcp_approval_response"]
    approval_request_id: str
    approve: bool
    reason: NotRequired[str | None]


class ItemReference(TypedDict):
    """In the input of a response: an item of the conversation."""

    type: Literal["item_reference"]
    id: str


Item = (
    SystemMessage
    | UserMessage
    | AssistantMessage
    | FunctionCall
    | FunctionCallOutput
    | MCPListTools
    | MCPCall
    | MCPApprovalRequest
    | MCPApprovalResponse
)


class InputTokenDetails(TypedDict, total=False):
    """Tokens by kind."""

    text_tokens: int
    audio_tokens: int
    image_tokens: int
    cached_tokens: int
    cached_tokens_details: CachedTokenDetails


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
    output_modalities: list[Literal["text", "audio"]]
    audio: ResponseAudio
    max_output_tokens: int | Literal["inf"]
    metadata: dict[str, str] | None
    usage: Usage | None


class ResponseSettings(TypedDict, total=False):
    """What is different in a single response."""

    output_modalities: list[Literal["text", "audio"]]
    instructions: str
    audio: ResponseAudio
    tools: list[Tool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    reasoning: Reasoning
    max_output_tokens: int | Literal["inf"]
    conversation: str
    metadata: dict[str, str] | None
    prompt: Prompt | None
    input: list[Item | ItemReference]
