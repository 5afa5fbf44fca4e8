"""The values that the protocol and the engines exchange."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

NANOSECONDS = 10**9
"""Per second."""

Line = dict[str, Any]
"""One JSON object of an answer."""


def rfc3339(nanoseconds: int) -> str:
    """Return a Unix time as Go prints it: UTC, up to nine decimals without trailing zeros."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


class OllamaError(Exception):
    """An error response of the server: `{"error": text}`, or an empty body if `text` is None.

    In a stream that has begun, it is the last line.
    """

    def __init__(self, status: int, text: str | None) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Model:
    """One installed model, as `/api/tags` and `/api/show` describe it."""

    name: str
    _: KW_ONLY
    size_bytes: int = 4_920_753_328
    """Size of the file (`/api/tags`)."""
    digest: str = ""
    """64 hex digits; empty derives them from the name."""
    family: str = "llama"
    parameter_size: str = "8.0B"
    quantization_level: str = "Q4_K_M"
    context_length: int = 131_072
    """The maximum that the model can be loaded with."""
    embedding_length: int = 4096
    capabilities: tuple[str, ...] = ("completion",)
    remote_host: str = ""
    """Set for a model that runs on a cloud service."""
    blob: str = ""
    """Path of the file with the weights; empty derives it from the digest."""
    modified_ns: int = 1_780_000_000 * NANOSECONDS

    @property
    def full_name(self) -> str:
        """The name with its tag."""
        return self.name if ":" in self.name.rpartition("/")[2] else f"{self.name}:latest"

    @property
    def sha256(self) -> str:
        """The digest, given or derived."""
        return self.digest or hashlib.sha256(self.full_name.encode()).hexdigest()

    @property
    def path(self) -> str:
        """Path of the file with the weights, as in the FROM line of `/api/show`."""
        return self.blob or f"/models/blobs/sha256-{hashlib.sha256(self.sha256.encode()).hexdigest()}"

    def resident_bytes(self) -> tuple[int, int]:
        """Return `size` and `size_vram` of `/api/ps`."""
        return self.size_bytes, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A validated request to `/api/generate`."""

    model: Model
    requested_name: str
    """The model's name as the client wrote it, which the answer repeats."""
    prompt: str
    raw: bool
    think: bool
    options: Mapping[str, Any]
    keep_alive_ns: int | None
    received_at: float
    """By the loop's clock."""

    @property
    def num_predict(self) -> int | None:
        """The maximum number of tokens to generate; None means no limit."""
        limit = int(self.options.get("num_predict") or 0)
        return limit if limit > 0 else None


@dataclass(frozen=True, slots=True)
class Timings:
    """What an engine measured of one answer."""

    prompt_tokens: int
    prefill_seconds: float
    tokens: int
    decode_seconds: float
    """From the first token to the last, as Ollama's `eval_duration`."""
    stopped: bool
    """Whether the model ended the answer before `num_predict`."""
