"""The brain behind a chat completions service: any that speaks OpenAI's `POST <url>/chat/completions`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from parley_local.core.effects import (
    BrainRequest,
    Call,
    Entry,
    Part,
    Reply,
    Say,
    ToolResult,
    ToolUse,
    Utterance,
)

from .base import BrainError

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_CALLS = 32
RETRIED = (502, 503, 504)
RETRY_AFTER_S = 0.2
UNHEARD = "(nothing was understood)"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Where the service is. `url` ends before `/chat/completions`; an empty `key` sends none.

    `timeout_s` bounds one answer, a second try included; `max_entries` is how much of the conversation is
    sent, newest kept.
    """

    url: str
    model: str = "local"
    key: str = field(default="", repr=False)
    timeout_s: float = 30.0
    max_entries: int = 200

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"chat_url {self.url!r} must begin with http:// or https://")
        if self.timeout_s <= 0 or self.max_entries < 1:
            raise ValueError("chat_timeout_s must be above 0 and max_entries 1 or above")


class ChatBrain:
    """Sends the conversation with the session's function tools, gives back words and function calls.

    Two tries for an answer: a connection that fails and a 502, 503 or 504 are tried once more.
    """

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._url = settings.url.rstrip("/") + "/chat/completions"
        self._http: aiohttp.ClientSession | None = None

    async def reply(self, request: BrainRequest) -> Reply:
        body = request_body(request, self._settings)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                status, answer = await self._ask(body)
        except TimeoutError as error:
            text = f"The chat service gave no answer within {self._settings.timeout_s:g} s."
            raise BrainError(text, "chat_timeout") from error
        if status != 200:
            raise self._refused(status, answer)
        return parse_answer(answer)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def _ask(self, body: Json) -> tuple[int, bytes]:
        try:
            status, answer = await self._post(body)
            if status not in RETRIED:
                return status, answer
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(RETRY_AFTER_S)
        try:
            return await self._post(body)
        except aiohttp.ClientError as error:
            text = f"The chat service cannot be reached ({type(error).__name__})."
            raise BrainError(text, "chat_unreachable") from error

    async def _post(self, body: Json) -> tuple[int, bytes]:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        key = self._settings.key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self._http.post(self._url, json=body, headers=headers, allow_redirects=False) as response:
            answer = bytearray()
            async for piece in response.content.iter_chunked(65536):
                answer += piece
                if len(answer) > MAX_ANSWER_BYTES:
                    raise BrainError(
                        f"The chat service's answer is longer than {MAX_ANSWER_BYTES} bytes.", "chat_invalid"
                    )
            return response.status, bytes(answer)

    def _refused(self, status: int, answer: bytes) -> BrainError:
        code, message = _error_of(answer)
        if self._settings.key:
            message = message.replace(self._settings.key, "***")
        codes = {401: "invalid_api_key", 403: "invalid_api_key", 404: "model_not_found"}
        if status == 429:
            code = code if code == "insufficient_quota" else "rate_limit_exceeded"
        else:
            code = codes.get(status, "chat_refused" if status < 500 else "server_error")
        said = f": {message[:200]}" if message else ""
        return BrainError(f"The chat service answered HTTP {status}{said}", code)


def _error_of(answer: bytes) -> tuple[str, str]:
    """Code and message of an error body; empty where it has none."""
    try:
        error = json.loads(answer)["error"]
        return str(error.get("code") or ""), str(error.get("message") or "")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "", ""


def request_body(request: BrainRequest, settings: ChatSettings) -> Json:
    """The body of the request to the service."""
    messages: list[Json] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    messages += _messages(request.history[-settings.max_entries :])
    body: Json = {"model": settings.model, "messages": messages}
    if request.functions:
        body["tools"] = [_tool(function) for function in request.functions]
        choice = request.tool_choice
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        body["tool_choice"] = choice
    return body


def _tool(function: Mapping[str, Any]) -> Json:
    kept = {key: function[key] for key in ("name", "description", "parameters") if function.get(key)}
    return {"type": "function", "function": kept}


def _messages(entries: tuple[Entry, ...]) -> list[Json]:
    """The conversation as chat messages.

    Chat services want every call's result right behind the call, so results move up to it; a call without
    one is told to be running, and a result whose call is gone becomes a note.
    """
    results = {entry.call_id: entry for entry in entries if isinstance(entry, ToolResult)}
    called = {entry.call_id for entry in entries if isinstance(entry, ToolUse)}
    messages: list[Json] = []
    for index, entry in enumerate(entries):
        match entry:
            case Utterance():
                text = entry.text.strip() or (UNHEARD if entry.role == "user" else "")
                if text:
                    messages.append({"role": entry.role, "content": text})
            case ToolUse():
                if index == 0 or not isinstance(entries[index - 1], ToolUse):
                    messages += _calls(entries[index:], results)
            case ToolResult() if entry.call_id not in called:
                note = f"Result of the tool {entry.name or 'called before'}: {entry.output}"
                messages.append({"role": "system", "content": note})
    return messages


def _calls(entries: tuple[Entry, ...], results: Mapping[str, ToolResult]) -> list[Json]:
    """One assistant message with the calls that `entries` begin with, and their results."""
    calls: list[Json] = []
    outputs: list[Json] = []
    for entry in entries:
        if not isinstance(entry, ToolUse):
            break
        function = {"name": entry.name, "arguments": entry.arguments}
        calls.append({"id": entry.call_id, "type": "function", "function": function})
        result = results.get(entry.call_id)
        output = result.output if result else "(still running)"
        outputs.append({"role": "tool", "tool_call_id": entry.call_id, "content": output})
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *outputs]


def parse_answer(answer: bytes) -> Reply:
    """Words and calls of a completion. Raises BrainError."""
    try:
        message = json.loads(answer)["choices"][0]["message"]
        content, calls = message.get("content"), message.get("tool_calls") or []
        parts: list[Part] = [Say(content)] if isinstance(content, str) and content.strip() else []
        for call in calls[:MAX_CALLS]:
            function = call["function"]
            parts.append(Call(str(function["name"]), str(function.get("arguments") or "{}")))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BrainError("The chat service's answer is no chat completion.", "chat_invalid") from error
    if not parts:
        raise BrainError("The chat service's answer is empty.", "chat_empty")
    return tuple(parts)
