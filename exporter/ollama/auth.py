"""The credentials that are sent to a target, and their redaction from other texts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx

from exporter import __version__
from exporter.background import KeyedThreads
from exporter.errors import ProbeError, Reason
from exporter.ollama.redaction import Secrets, secrets_in
from exporter.ollama.remedies import no_file_descriptors
from exporter.plan import TargetPlan
from exporter.settings.secret_files import read_secret, read_token

READ_SECONDS = 4.0


class TargetAuth(httpx.Auth):
    """Adds the configured headers and credentials to each request, and removes those from the environment.

    The Ollama client sends `OLLAMA_API_KEY` as a bearer token unless it is removed here. Secret files are read again
    for each request, in a thread, so that a rotated secret needs no reload. One that cannot be used raises
    `ProbeError`.
    """

    def __init__(self, plan: TargetPlan) -> None:
        self._plan = plan
        self._secrets = Secrets()
        self._secrets.add(*secrets_in(plan.headers), plan.password)
        self._threads = KeyedThreads()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Set the user agent, the configured headers and the credentials, and ask for an uncompressed answer."""
        request.headers.pop("authorization", None)
        request.headers["user-agent"] = f"ollama-throughput-exporter/{__version__}"
        request.headers["accept-encoding"] = "identity"  # a proxy that compresses delays chunks
        request.headers.update(self._plan.headers)
        credentials = await self._credentials()
        if credentials is not None:
            request.headers["authorization"] = credentials
        yield request

    def redact(self, text: str) -> str:
        """Return the text with every secret that was sent to this target replaced. Call it before shortening."""
        return self._secrets.redact(text)

    async def _credentials(self) -> str | None:
        plan = self._plan
        if plan.bearer_token_file is not None:
            token = await self._read(plan.bearer_token_file, read_token)
            self._secrets.add(token)
            return f"Bearer {token}"
        if plan.username is not None:
            password = plan.password or ""
            if plan.password_file:
                password = await self._read(plan.password_file, read_secret)
            encoded = base64.b64encode(f"{plan.username}:{password}".encode()).decode()
            self._secrets.add(password, encoded)
            return f"Basic {encoded}"
        return None

    async def _read(self, path: Path, read: Callable[[Path], str]) -> str:
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._threads.run(path, lambda: read(path), "read a secret")
        except TimeoutError as error:
            remedy = "Check the file system of the secret file."
            raise ProbeError(Reason.DENIED, f"{path}: not read within {READ_SECONDS:g} s", remedy) from error
        except OSError as error:
            if problem := no_file_descriptors(error):
                raise ProbeError(problem.reason, f"{path}: {problem.detail}", problem.remedy) from error
            remedy = "Make the secret file readable for the user of this program."
            raise ProbeError(Reason.DENIED, f"{path}: {error.strerror}", remedy) from error
        except ValueError as error:
            detail = f"{path}: {str(error).partition('. ')[0]}"
            raise ProbeError(Reason.DENIED, detail, "Write only the secret into the file.") from None
