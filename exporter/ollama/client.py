"""The client of one Ollama server: its version, its models, and loading and unloading one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Self

import httpx

from exporter.errors import ProbeError, Reason
from exporter.logs import get_logger
from exporter.ollama import entries
from exporter.ollama.answers import JSON_LIMITS, SHORT_LIMITS, AnswerLimits, parse_json
from exporter.ollama.auth import TargetAuth
from exporter.ollama.entries import ModelFile
from exporter.ollama.error_mapping import map_errors
from exporter.ollama.remedies import VERSION_PATH, not_ollama
from exporter.ollama.transport import TargetTransport, no_cookies, request_timeout
from exporter.plan import TargetPlan, canonical_model_name
from exporter.reading import InstalledModel, LoadedModel

ANSWER_SECONDS = 5.0
"""Deadline of every request except loading a model."""
ENTRIES_MAX = 1000
"""Maximum number of models in a list, and of cached model files."""

log = get_logger(__name__)


class OllamaClient:
    """Sends the requests to one Ollama server, except for the measured one. Every method raises only `ProbeError`."""

    def __init__(self, plan: TargetPlan, on_version: Callable[[str | None], None] = lambda _: None) -> None:
        """Create the client. `on_version` is called with each version, and with None if there was no answer."""
        self.auth = TargetAuth(plan)
        self._plan = plan
        self._on_version = on_version
        self._http = httpx.AsyncClient(
            base_url=plan.url,
            auth=self.auth,
            cookies=no_cookies(),
            timeout=request_timeout(),
            transport=TargetTransport(plan),
            trust_env=False,
        )
        self._files: dict[str, ModelFile] = {}
        self._warned = False
        self._configured = {canonical_model_name(key.model) for key in plan.listed_models()}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def version(self) -> str:
        """Return the server's version, which also shows that it responds. A build from source reports `0.0.0`."""
        try:
            version = self._shown(entries.text(await self._request("GET", VERSION_PATH), "version"))
        except ProbeError:
            self._on_version(None)
            raise
        self._on_version(version)
        return version

    async def installed(self) -> tuple[InstalledModel, ...]:
        """Return the installed models, without those whose names cannot be used."""
        models = await self._models("/api/tags")
        usable = [entry for entry in models if entries.is_usable_name(entries.name_of(entry))]
        if len(usable) < len(models) and not self._warned:
            self._warned = True
            count = len(models) - len(usable)
            log.warning("models with unusable names left out", target=self._plan.name, count=count)
        return tuple(entries.installed_model(entry, self._shown) for entry in usable)

    async def find_installed(self, model: str) -> InstalledModel | None:
        """Return a model's entry in the list of installed models, None if it is not there."""
        name = canonical_model_name(model)
        return next((entry for entry in await self.installed() if canonical_model_name(entry.name) == name), None)

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """Return the loaded models."""
        return tuple(entries.loaded_model(entry, self._shown) for entry in await self._models("/api/ps"))

    async def find_loaded(self, model: str) -> tuple[LoadedModel | None, tuple[LoadedModel, ...]]:
        """Return a model's entry in the list of loaded models, None if it is not there, and the other entries."""
        name = canonical_model_name(model)
        loaded = await self.loaded()
        same = [entry for entry in loaded if canonical_model_name(entry.name) == name]
        others = tuple(entry for entry in loaded if canonical_model_name(entry.name) != name)
        return (same[0] if same else None), others

    async def model_file(self, model: str, digest: str) -> ModelFile:
        """Return the description of a model's file, which is requested once per digest."""
        cache_key = digest or model
        if cache_key not in self._files:
            if len(self._files) >= ENTRIES_MAX:
                self._files.clear()
            self._files[cache_key] = entries.model_file(await self._request("POST", "/api/show", {"model": model}))
        return self._files[cache_key]

    async def load(self, model: str, keep_alive: str | int | None, seconds: float) -> datetime | None:
        """Load a model with an empty prompt and return the answer's `created_at`, by the server's clock.

        Raises `load_timeout` if it takes longer than `seconds`.
        """
        body = {"model": model, "stream": False} | ({} if keep_alive is None else {"keep_alive": keep_alive})
        timeout_error = ProbeError(Reason.LOAD_TIMEOUT, f"the model was not loaded within {seconds:g} s")
        answer = await self._request(
            "POST", "/api/generate", body, limits=SHORT_LIMITS, seconds=seconds, timeout_error=timeout_error
        )
        return entries.time(answer.get("created_at"))

    async def unload(self, model: str) -> None:
        """Request that the server unloads a model as soon as its running requests have ended."""
        body = {"model": model, "stream": False, "keep_alive": 0}
        await self._request("POST", "/api/generate", body, limits=SHORT_LIMITS)

    def _shown(self, text: str) -> str:
        """Return a server's text as it may be shown. The name of a configured model is not a secret."""
        if canonical_model_name(text) in self._configured:
            return text
        return entries.shown(text, self.auth.redact)

    async def _models(self, path: str) -> list[Mapping[str, Any]]:
        models = (await self._request("GET", path)).get("models")
        if models is None:  # Go encodes an empty list as null
            return []
        if not isinstance(models, list):
            raise ProbeError(Reason.PROTOCOL, f"the answer of {path} has no list of models")
        if len(models) > ENTRIES_MAX:
            raise ProbeError(Reason.PROTOCOL, f"the answer of {path} lists more than {ENTRIES_MAX} models")
        return [entry for entry in models if isinstance(entry, dict)]

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        limits: AnswerLimits = JSON_LIMITS,
        seconds: float = ANSWER_SECONDS,
        timeout_error: ProbeError | None = None,
    ) -> dict[str, Any]:
        """Return the answer's JSON object. `timeout_error` is raised if it does not arrive within `seconds`."""
        remedy = not_ollama(self._plan) if path == VERSION_PATH else None
        with map_errors(self._plan, self.auth.redact):
            try:
                async with asyncio.timeout(seconds):
                    response = await self._http.request(method, path, json=body, extensions=limits.extension)
                    response.raise_for_status()
                    answer = await parse_json(response.content)
            except TimeoutError as error:
                if timeout_error is not None:
                    raise timeout_error from error
                slow = "The server accepts connections but does not answer. See Ollama's log."
                raise ProbeError(Reason.TIMEOUT, f"no answer to {path} within {seconds:g} s", slow) from error
            except (ValueError, RecursionError) as error:
                raise ProbeError(Reason.PROTOCOL, f"the answer of {path} is not JSON", remedy) from error
        if not isinstance(answer, dict):
            raise ProbeError(Reason.PROTOCOL, f"the answer of {path} is not a JSON object", remedy)
        return answer
