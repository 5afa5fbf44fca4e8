"""What can go wrong: one small tree, and a closed set of reasons, each with its remedy.

* ExporterError
  * SettingsError: what the user wrote cannot be used
  * ProbeError: a probe that measured nothing, with its `Reason`
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a probe failed: the closed set behind `ollama_probe_failures_total{reason}`."""

    CONNECT = "connect"
    DENIED = "denied"
    MODEL_MISSING = "model_missing"
    UNSUPPORTED = "unsupported"
    LOAD_TIMEOUT = "load_timeout"
    OUT_OF_MEMORY = "out_of_memory"
    BUSY = "busy"
    NO_FIRST_TOKEN = "no_first_token"  # noqa: S105 - a reason, not a password
    STALLED = "stalled"
    TIMEOUT = "timeout"
    HTTP = "http"
    PROTOCOL = "protocol"
    SHORT = "short"
    INTERNAL = "internal"


REMEDIES: dict[Reason, str] = {
    Reason.CONNECT: "is Ollama running there, and does a firewall or OLLAMA_HOST on its side keep it to loopback?",
    Reason.DENIED: "set bearer_token_file, basic_auth or headers of this target; a foreign Host name is refused too",
    Reason.MODEL_MISSING: "pull the model there with `ollama pull`, or configure one that is installed",
    Reason.UNSUPPORTED: "this model cannot generate text so: leave it out, or set `reasoning: false`",
    Reason.LOAD_TIMEOUT: "look at Ollama's log; a slow disk needs a longer `load_timeout`",
    Reason.OUT_OF_MEMORY: "free GPU memory (`ollama ps`), or take a smaller model or context",
    Reason.BUSY: "the server has too many requests waiting: probe less often, or give it less work",
    Reason.NO_FIRST_TOKEN: "the server answers but does not generate: a hung runner or a slot that is always busy; "
    "see Ollama's log and `nvidia-smi`",
    Reason.STALLED: "generating stopped in the middle: see Ollama's log and `dmesg` for the GPU's errors (Xid)",
    Reason.TIMEOUT: "too slow for the deadline: is the model on the CPU (`ollama ps`)? If that is meant so, "
    "raise `timeout`",
    Reason.HTTP: "the server answered with an error: see Ollama's log",
    Reason.PROTOCOL: "the answer is not what Ollama sends: is a proxy between, or did its runner die? See Ollama's log",
    Reason.SHORT: "the model stopped before 16 tokens, too few to measure: choose another `question` or model",
    Reason.INTERNAL: "this is a fault of the exporter: please report it with the traceback in its log",
}
"""What to do about each, in words, where nothing more particular is known."""


class ExporterError(Exception):
    """Anything this program says on purpose."""


class SettingsError(ExporterError):
    """What the user wrote cannot be used; the message names the key's path, the value and the remedy."""


class ProbeError(ExporterError):
    """A probe that measured nothing. `detail` says what was seen, `remedy` what to do about it."""

    def __init__(self, reason: Reason, detail: str, remedy: str) -> None:
        super().__init__(f"{reason}: {detail} ({remedy})")
        self.reason = reason
        self.detail = detail
        self.remedy = remedy
