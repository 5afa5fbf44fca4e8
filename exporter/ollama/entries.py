"""What an Ollama server says of itself (version, installed and loaded models), and loading and unloading a model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import httpx

from exporter.errors import ProbeError, Reason
from exporter.ollama.error_mapping import answer_error, map_error, probe_error
from exporter.ollama.transport import TargetAuth, TargetTransport, no_cookies, request_timeout
from exporter.plan import TargetPlan
from exporter.reading import InstalledModel, LoadedModel

ANSWER_SECONDS = 5.0
"""How long the server may take to say something of itself."""

_FROM = re.compile(r"^FROM .*sha256-([0-9a-f]{64})", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What `/api/show` says of a model's file."""

    blob: str | None
    """Hex digest; the runner's command line holds it."""
    dense: bool | None
    """False for a mixture of experts, of which a token reads a part only."""
    can_generate: bool | None
    cloud: bool


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _count(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _mapping(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _capable(entry: Mapping[str, Any]) -> bool | None:
    capabilities = entry.get("capabilities")
    return "completion" in capabilities if isinstance(capabilities, list) else None


def _cloud(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("remote_host") or entry.get("remote_model")) or _text(entry, "name").endswith("cloud")


def read_time(text: Any) -> datetime | None:
    """Return an RFC 3339 time with its zone, to the microsecond; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def _installed(entry: Mapping[str, Any]) -> InstalledModel:
    details = _mapping(entry, "details")
    return InstalledModel(
        name=_text(entry, "name") or _text(entry, "model"),
        digest=_text(entry, "digest"),
        size_bytes=_count(entry, "size"),
        family=_text(details, "family"),
        parameter_size=_text(details, "parameter_size"),
        quantization=_text(details, "quantization_level"),
        can_generate=_capable(entry),
        cloud=_cloud(entry),
    )


def _loaded(entry: Mapping[str, Any]) -> LoadedModel:
    return LoadedModel(
        name=_text(entry, "name") or _text(entry, "model"),
        size_bytes=_count(entry, "size"),
        size_vram_bytes=_count(entry, "size_vram") if "size_vram" in entry else 0,
        context_length=_count(entry, "context_length"),
        expires_at=read_time(entry.get("expires_at")),
    )


class OllamaClient:
    """One Ollama server, asked over HTTP. Every method raises `ProbeError` where no proper answer came."""

    def __init__(self, plan: TargetPlan, on_answer: Callable[[str | None], None] = lambda _: None) -> None:
        self.auth = TargetAuth(plan)
        self._on_answer = on_answer
        self._client = httpx.AsyncClient(
            base_url=plan.url,
            auth=self.auth,
            cookies=no_cookies(),
            timeout=request_timeout(),
            transport=TargetTransport(plan),
            trust_env=False,
        )
        self._files: dict[str, ModelFile] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                response = await self._client.request(method, path, json=body)
        except TimeoutError as error:
            raise probe_error(Reason.TIMEOUT, f"no answer to {path} within {seconds:g} s") from error
        except Exception as error:  # whatever it is, it becomes one of the reasons
            raise map_error(error, self.auth.redact) from error
        if not response.is_success:
            raise answer_error(response.status_code, response.text, self.auth.redact)
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise probe_error(Reason.PROTOCOL, f"{path} did not answer in JSON") from error
        if not isinstance(answer, dict):
            raise probe_error(Reason.PROTOCOL, f"{path} answered something else than an object")
        return answer

    async def _models(self, path: str) -> list[Mapping[str, Any]]:
        models = (await self._ask("GET", path)).get("models")
        if models is None:  # Go writes an empty list as null
            return []
        if not isinstance(models, list):
            raise probe_error(Reason.PROTOCOL, f"{path} has no list of models")
        return [entry for entry in models if isinstance(entry, dict)]

    async def version(self) -> str:
        """Return the version, which doubles as the sign of life; a build from source says `0.0.0`.

        `on_answer` hears it too, or None where no answer came.
        """
        try:
            version = _text(await self._ask("GET", "/api/version"), "version")
        except ProbeError:
            self._on_answer(None)
            raise
        self._on_answer(version)
        return version

    async def installed(self) -> tuple[InstalledModel, ...]:
        """Return the installed models."""
        return tuple(_installed(entry) for entry in await self._models("/api/tags"))

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """Return the loaded models."""
        return tuple(_loaded(entry) for entry in await self._models("/api/ps"))

    async def file(self, model: str, digest: str) -> ModelFile:
        """Return what is known of a model's file, asked once per digest."""
        known_as = digest or model
        if known_as not in self._files:
            answer = await self._ask("POST", "/api/show", {"model": model})
            found = _FROM.search(_text(answer, "modelfile"))
            info = _mapping(answer, "model_info")
            self._files[known_as] = ModelFile(
                blob=found[1] if found else None,
                dense=not any(key.endswith(".expert_count") and count for key, count in info.items()) if info else None,
                can_generate=_capable(answer),
                cloud=_cloud(answer),
            )
        return self._files[known_as]

    async def load(self, model: str, keep_alive: str | int | None, seconds: float) -> datetime | None:
        """Load a model by an empty prompt and return the answer's `created_at`, by the server's clock."""
        try:
            answer = await self._generate({"model": model, "stream": False}, keep_alive, seconds)
        except ProbeError as error:
            if error.reason is Reason.TIMEOUT:
                raise probe_error(Reason.LOAD_TIMEOUT, f"not loaded within {seconds:g} s") from error
            raise
        return read_time(answer.get("created_at"))

    async def unload(self, model: str) -> None:
        """Ask the server to unload a model once its running requests have ended."""
        await self._generate({"model": model, "stream": False}, 0, ANSWER_SECONDS)

    async def _generate(self, body: dict[str, Any], keep_alive: str | int | None, seconds: float) -> dict[str, Any]:
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        return await self._ask("POST", "/api/generate", body, seconds)
