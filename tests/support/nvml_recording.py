"""NVML, recorded on a machine that has a GPU and replayed on machines that have none."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

RECORDINGS = Path(__file__).parents[1] / "recordings"
MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
UNRECORDED = [0.0, {"error": pynvml.NVML_ERROR_NOT_SUPPORTED}]


@dataclass(frozen=True, slots=True)
class Handle:
    """A GPU's handle that knows its index."""

    index: int
    real: Any = None


def plain(answer: Any) -> Any:
    """Return an answer of NVML as JSON can represent it."""
    if isinstance(answer, ctypes.Array | list | tuple):
        return [plain(one) for one in answer]
    if isinstance(answer, pynvml.c_nvmlFieldValue_t):
        value = getattr(answer.value, MEMBERS[answer.valueType])
        return {"fieldId": answer.fieldId, "return": answer.nvmlReturn, "type": answer.valueType, "value": value}
    if isinstance(answer, ctypes.Structure):
        return {name: plain(getattr(answer, name)) for name, *_ in answer._fields_}
    if isinstance(answer, bytes):
        return answer.decode()
    return answer if isinstance(answer, int | float | str | None) else {k: plain(v) for k, v in vars(answer).items()}


@dataclass
class Recorder:
    """Passes calls on to NVML, and records by scene what it answered and when (Unix time)."""

    library: Any
    scenes: dict[str, dict[str, list[list[Any]]]] = field(default_factory=lambda: {"identity": {}})
    scene: str | None = "identity"

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of NVML, with functions replaced by ones that record."""
        found = getattr(self.library, name)
        if not name.startswith(("nvmlDevice", "nvmlSystem")):
            return found

        def call(*arguments: Any) -> Any:
            real = [one.real if isinstance(one, Handle) else one for one in arguments]
            if self.scene is None:
                return found(*real)
            at = time.time()
            try:
                answer = found(*real)
            except self.library.NVMLError as error:
                self.note(name, arguments, at, {"error": error.value})
                raise
            if name == "nvmlDeviceGetHandleByIndex":
                self.note(name, arguments, at, None)
                return Handle(arguments[0], answer)
            self.note(name, arguments, at, plain(answer))
            return answer

        return call

    def note(self, name: str, arguments: tuple[Any, ...], at: float, answer: Any) -> None:
        """Add an answer to the scene."""
        if self.scene is not None:
            calls = self.scenes.setdefault(self.scene, {})
            calls.setdefault(key(name, arguments), []).append([round(at, 4), answer])


def key(name: str, arguments: tuple[Any, ...]) -> str:
    """Return the key of a call: its name and its arguments, without the time of `nvmlDeviceGetProcessUtilization`."""
    named = [one.index if isinstance(one, Handle) else one for one in arguments]
    if name == "nvmlDeviceGetProcessUtilization":
        named = named[:1]
    return f"{name}({','.join(str(one) for one in named)})"


def struct(answer: Any) -> Any:
    """Return a recorded answer with the attributes of NVML's own."""
    if isinstance(answer, list):
        return [struct(one) for one in answer]
    if isinstance(answer, dict) and "fieldId" in answer:
        value = SimpleNamespace(**{MEMBERS[answer["type"]]: answer["value"]})
        return SimpleNamespace(
            fieldId=answer["fieldId"], nvmlReturn=answer["return"], valueType=answer["type"], value=value
        )
    if isinstance(answer, dict):
        return SimpleNamespace(**answer)
    return answer


@dataclass
class Replay:
    """Answers as NVML did at the recorded time nearest to `now`; what was not recorded is not supported."""

    calls: dict[str, list[list[Any]]]
    now: Callable[[], float]
    changes: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    """By function name: changes a recorded answer. It may raise, or return `{"error": CODE}`."""

    def __getattr__(self, name: str) -> Any:
        """Return a constant of NVML, or a function that replays the recording."""
        if not name.startswith("nvml") or not callable(getattr(pynvml, name)):
            return getattr(pynvml, name)

        def call(*arguments: Any) -> Any:
            if name in {"nvmlInit", "nvmlShutdown"}:
                answer = None
            elif name == "nvmlDeviceGetHandleByIndex":
                answer = Handle(arguments[0])
            else:
                answers = self.calls.get(key(name, arguments), [UNRECORDED])
                answer = min(answers, key=lambda one: abs(one[0] - self.now()))[1]
            change = self.changes.get(name)
            if change is not None:
                answer = change(answer)
            if isinstance(answer, dict) and "error" in answer:
                raise pynvml.NVMLError(answer["error"])
            return struct(answer)

        return call


def load(name: str) -> dict[str, Any]:
    """Return a recording."""
    recording: dict[str, Any] = json.loads((RECORDINGS / name).read_text())
    return recording
