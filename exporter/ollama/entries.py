"""Parse what Ollama reports about its models. A field that is missing or of the wrong type counts as unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from exporter.reading import InstalledModel, LoadedModel

_FROM = re.compile(r"^FROM .*sha256-([0-9a-f]{64})", re.MULTILINE)
_COUNT_MAX = 2**63 - 1
"""Ollama's integers are 64-bit."""
TEXT_CHARACTERS_MAX = 200
"""Maximum length of a text that may become a label value."""

Clean = Callable[[str], str]
"""Makes a server's text safe to show: redacted, valid Unicode, short. See `shown`."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file as `/api/show` describes it. None means that the server did not report the value."""

    blob: str | None
    """Hex digest of the file; the runner's command line contains it."""
    dense: bool | None
    """False for a mixture of experts, of which each token reads only a part."""
    can_generate: bool | None
    cloud: bool


def text(entry: Mapping[str, Any], key: str) -> str:
    """Return a string field; empty if it is missing or of another type."""
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def time(value: Any) -> datetime | None:
    """Return an RFC 3339 time with its zone, in microseconds; None for anything else."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def shown(value: str, redact: Clean) -> str:
    """Return a text without secrets, as valid Unicode and of at most 200 characters."""
    return redact(value)[:TEXT_CHARACTERS_MAX].encode(errors="replace").decode()


def name_of(entry: Mapping[str, Any]) -> str:
    """Return the name of a model as the server wrote it."""
    return text(entry, "name") or text(entry, "model")


def is_usable_name(name: str) -> bool:
    """Return whether a name can be a label and be sent to the server: valid Unicode, at most 200 characters."""
    return len(name) <= TEXT_CHARACTERS_MAX and not any("\ud800" <= character <= "\udfff" for character in name)


def installed_model(entry: Mapping[str, Any], clean: Clean) -> InstalledModel:
    """Return an entry of `/api/tags`."""
    details = _mapping(entry, "details")
    return InstalledModel(
        name=clean(name_of(entry)),
        digest=clean(text(entry, "digest")),
        size_bytes=_count(entry, "size"),
        family=clean(text(details, "family")),
        parameter_size=clean(text(details, "parameter_size")),
        quantization=clean(text(details, "quantization_level")),
        can_generate=_can_generate(entry),
        cloud=_is_cloud(entry),
    )


def loaded_model(entry: Mapping[str, Any], clean: Clean) -> LoadedModel:
    """Return an entry of `/api/ps`. Go omits a `size_vram` of 0."""
    return LoadedModel(
        name=clean(name_of(entry)),
        size_bytes=_count(entry, "size"),
        size_vram_bytes=_count(entry, "size_vram") if "size_vram" in entry else 0,
        context_length=_count(entry, "context_length"),
        expires_at=time(entry.get("expires_at")),
    )


def model_file(answer: Mapping[str, Any]) -> ModelFile:
    """Return an answer of `/api/show`."""
    blob = _FROM.search(text(answer, "modelfile"))
    info = _mapping(answer, "model_info")
    return ModelFile(
        blob=blob[1] if blob else None,
        dense=not any(key.endswith(".expert_count") and count for key, count in info.items()) if info else None,
        can_generate=_can_generate(answer),
        cloud=_is_cloud(answer),
    )


def _count(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX else None


def _mapping(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _can_generate(entry: Mapping[str, Any]) -> bool | None:
    capabilities = entry.get("capabilities")
    return "completion" in capabilities if isinstance(capabilities, list) else None


def _is_cloud(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("remote_host") or entry.get("remote_model")) or text(entry, "name").endswith("cloud")
