"""What a target is sent as credentials, and the redaction of exactly those."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx

from exporter import __version__
from exporter.errors import ProbeError, Reason
from exporter.plan import TargetPlan
from exporter.settings.secret_files import read_secret, read_token

_PART_CHARACTERS_MIN = 6
"""A shorter part of a header's value belongs to its grammar and is not a secret."""


class TargetAuth(httpx.Auth):
    """Sets the headers and credentials of the configuration, and removes those that come from the environment.

    The Ollama client sends `OLLAMA_API_KEY` as a bearer token unless it is removed here. Secret files are read again
    for each request, so that a rotated secret needs no reload. One that cannot be used raises `ProbeError`.
    """

    def __init__(self, plan: TargetPlan) -> None:
        self._plan = plan
        self._secrets: set[str] = set()
        for value in plan.headers.values():
            self._remember(*_parts(value))
        self._remember(plan.username, plan.password)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Set the user agent, the configured headers and the credentials, and ask for an uncompressed answer."""
        request.headers.pop("authorization", None)
        request.headers["user-agent"] = f"ollama-throughput-exporter/{__version__}"
        request.headers["accept-encoding"] = "identity"  # a proxy that compresses delays chunks
        request.headers.update(self._plan.headers)
        credentials = self._credentials()
        if credentials is not None:
            request.headers["authorization"] = credentials
        yield request

    def redact(self, text: str) -> str:
        """Return the text with every secret that was sent to this target replaced. Call it before shortening."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "<secret>")
        return text

    def _credentials(self) -> str | None:
        plan = self._plan
        if plan.bearer_token_file is not None:
            token = _read(plan.bearer_token_file, read_token)
            self._remember(token)
            return f"Bearer {token}"
        if plan.username is not None:
            password = _read(plan.password_file, read_secret) if plan.password_file else plan.password or ""
            encoded = base64.b64encode(f"{plan.username}:{password}".encode()).decode()
            self._remember(password, encoded)
            return f"Basic {encoded}"
        return None

    def _remember(self, *secrets: str | None) -> None:
        """Add secrets to redact, in every form in which others may print them."""
        for secret in secrets:
            if secret:
                self._secrets.update(_forms(secret))


def _read(path: Path, read: Callable[[Path], str]) -> str:
    try:
        return read(path)
    except OSError as error:
        raise ProbeError(
            Reason.DENIED, f"{path}: {error.strerror}", "Make the secret file readable for the user of this program."
        ) from error
    except ValueError as error:
        problem = str(error).partition(". ")[0]
        raise ProbeError(Reason.DENIED, f"{path}: {problem}", "Write only the secret into the file.") from None


def _parts(value: str) -> Iterator[str]:
    """Yield a header's value and the parts that a server may quote alone: a token, a cookie's value, a password."""
    yield value
    for part in re.split(r"[\s,;=]+", value):
        if len(part) >= _PART_CHARACTERS_MIN:
            yield part
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() == "basic":
        try:
            yield from base64.b64decode(credentials).decode().split(":", 1)
        except (binascii.Error, UnicodeDecodeError):
            return  # not valid Basic credentials: the server will refuse them


def _forms(secret: str) -> set[str]:
    """Return a secret as it is, as JSON, Python and URLs spell it, and with each run of whitespace as one space."""
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        quote(secret),
        quote(secret, safe=""),
        " ".join(secret.split()),
    }
