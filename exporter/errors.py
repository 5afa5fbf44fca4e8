"""What can go wrong: one small exception tree, and closed sets of reasons with their texts.

* ExporterError
  * SettingsError: the configuration cannot be used
  * ProbeError: a probe that gave no reading, with its `Failure`

Reasons, their label values and their texts are defined only here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why a probe failed: the values of `ollama_probe_failures_total{reason}`, each with its general remedy."""

    CONNECT = (
        "connect",
        (
            "Check that Ollama is running and that no firewall blocks the port. "
            "If Ollama listens on loopback only, set OLLAMA_HOST on its machine."
        ),
    )
    DENIED = (
        "denied",
        (
            "Check bearer_token_file, basic_auth or headers of this target. "
            "Behind a proxy, let it send `Host: localhost`: on loopback, Ollama refuses other host names with 403."
        ),
    )
    MODEL_MISSING = (
        "model_missing",
        "Pull the model on the server with `ollama pull`, or configure a model that is installed.",
    )
    UNSUPPORTED = (
        "unsupported",
        "This model does not support the request. Remove it from the configuration, or set `reasoning: false`.",
    )
    LOAD_TIMEOUT = ("load_timeout", "See Ollama's log. On slow storage, raise `load_timeout`.")
    OUT_OF_MEMORY = (
        "out_of_memory",
        "Free GPU memory (`ollama ps` shows what is loaded), or use a smaller model or context.",
    )
    BUSY = ("busy", "Too many requests are queued on the server. Lengthen `interval`, or reduce the server's load.")
    NO_FIRST_TOKEN = (
        "no_first_token",
        (
            "The server accepts requests but does not generate: the runner hangs, or every slot is in use. "
            "See Ollama's log and `nvidia-smi`."
        ),
    )
    STALLED = (
        "stalled",
        "Generation stopped before the end. See Ollama's log, and the kernel log for GPU errors (`dmesg`, Xid).",
    )
    TIMEOUT = (
        "timeout",
        (
            "The model is too slow for the timeout. Check with `ollama ps` whether it runs on the CPU. "
            "If that is intended, raise `timeout`."
        ),
    )
    HTTP = ("http", "The server answered with an error. See Ollama's log.")
    PROTOCOL = (
        "protocol",
        "The answer is not what Ollama sends. Check for a proxy in between, and see Ollama's log.",
    )
    SHORT = (
        "short",
        "The model stopped before 16 tokens, which is too few to measure. Choose another `question` or model.",
    )
    INTERNAL = (
        "internal",
        "This is a bug in ollama-throughput-exporter. Please report it with the traceback from its log.",
    )

    remedy: str
    """What to do about it, unless a more specific remedy is known. Text in backticks is code."""

    def __new__(cls, value: str, remedy: str) -> Self:
        """Return the member for a label value and its remedy."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.remedy = remedy
        return member


class SkipReason(StrEnum):
    """Why a due probe was not run: the values of `ollama_probe_skipped_total{reason}`, each with its text."""

    UNLOADED = ("unloaded", "The model is not loaded, and `when_unloaded: skip` does not load it.")
    OCCUPIED = (
        "occupied",
        "Another model is loaded, and loading this one might evict it. `when_unloaded: load` loads it anyway.",
    )
    OVERLAP = ("overlap", "The previous probe of this model had not finished. Lengthen `interval`.")
    LATE = (
        "late",
        "The probe could not start in time. Raise `max_concurrent_probes`, or lengthen `interval`.",
    )

    text: str
    """A sentence or two. Text in backticks is code."""

    def __new__(cls, value: str, text: str) -> Self:
        """Return the member for a label value and its text."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member


class ExporterError(Exception):
    """Base class of all errors of this program that have a message for its user."""


class SettingsError(ExporterError):
    """The configuration cannot be used. The message names the key's path, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a probe gave no reading, as shown in the log, on the status page and on the terminal. Without secrets."""

    reason: Reason
    detail: str
    """What was seen."""
    remedy: str
    """What to do about it: the most specific one that is known."""


class ProbeError(ExporterError):
    """A probe that gave no reading."""

    def __init__(self, reason: Reason, detail: str, remedy: str | None = None) -> None:
        """Create the error. The default remedy is that of the reason."""
        self.failure = Failure(reason, detail, remedy or reason.remedy)
        super().__init__(f"{reason}: {detail}. {self.failure.remedy}")

    @property
    def reason(self) -> Reason:
        """The failure's reason."""
        return self.failure.reason

    @property
    def detail(self) -> str:
        """What was seen."""
        return self.failure.detail

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return self.failure.remedy
