"""Why a pod does not get going, in the words of kubelet and scheduler; never what a container wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from parley_operator.api.constants import Body
from parley_operator.api.v1alpha1 import map_at, text_at

_IMAGE = frozenset(
    {
        *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        *("ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"),
    }
)
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError"})
_USUAL = frozenset({"ContainerCreating", "PodInitializing", "Completed"})
_LONGEST = 240


@dataclass(frozen=True, slots=True)
class Trouble:
    """`reason` is one CamelCase word for a condition; `words` say more, and stay while nothing changes."""

    reason: str
    words: str


def trouble_of(body: Body) -> Trouble | None:
    """`None` while nothing is known to be wrong."""
    phase = text_at(body, "status", "phase")
    if phase == "Failed":
        return _failed(body)
    for status in _containers(body):
        found = _waiting(status) or _crashed(status)
        if found is not None:
            return found
    return _unscheduled(body)


def _failed(body: Body) -> Trouble:
    reason = text_at(body, "status", "reason")
    words = text_at(body, "status", "message")
    last = next((ended for status in _containers(body) if (ended := _exit(map_at(status, "state")))), "")
    return Trouble(
        reason or "PodFailed", _short(words or last or "the pod failed and its node says nothing more")
    )


def _waiting(status: Mapping[str, object]) -> Trouble | None:
    waiting = map_at(status, "state", "waiting")
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    name = status.get("name")
    if not reason or reason in _USUAL:
        return None
    if reason in _IMAGE:
        return Trouble("ImagePull", _short(f"image {status.get('image')}: {reason}: {message}"))
    if reason == "CrashLoopBackOff":
        ended = _exit(map_at(status, "lastState")) or "ended"
        return Trouble("CrashLoop", f"container {name} {ended} again and again: see its log")
    if reason in _CONFIG:
        missing = "not found" in message and any(word in message for word in ("secret", "configmap", "key"))
        return Trouble(
            "SecretsMissing" if missing else "ContainerConfig",
            _short(f"container {name}: {reason}: {message}"),
        )
    return Trouble(reason, f"container {name} waits: {reason}")


def _crashed(status: Mapping[str, object]) -> Trouble | None:
    """Between an end and the next start, before the kubelet calls it a loop."""
    ended = _exit(map_at(status, "state"))
    if not ended or status.get("restartCount") in (None, 0):
        return None
    return Trouble("CrashLoop", f"container {status.get('name')} {ended} again and again: see its log")


def _exit(state: Mapping[str, object]) -> str:
    """How a container ended; without its last words, which may be anything."""
    ended = map_at(state, "terminated")
    if not ended:
        return ""
    reason = str(ended.get("reason", ""))
    why = f" ({reason})" if reason not in ("", "Error", "Completed") else ""
    return f"ended with exit code {ended.get('exitCode')}{why}"


def _unscheduled(body: Body) -> Trouble | None:
    for condition in _maps(map_at(body, "status").get("conditions")):
        if (condition.get("type"), condition.get("status")) == ("PodScheduled", "False"):
            reason = str(condition.get("reason", "")) or "Unschedulable"
            return Trouble(reason, _short(str(condition.get("message", "")) or "no node takes the pod"))
    return None


def _containers(body: Body) -> Iterator[Mapping[str, object]]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from _maps(map_at(body, "status").get(kind))


def _maps(value: object) -> Iterator[Mapping[str, object]]:
    for item in cast("list[object]", value) if isinstance(value, list) else []:
        if isinstance(item, Mapping):
            yield item


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."
