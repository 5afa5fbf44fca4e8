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
