"""How a target is reached: its transport, and the credentials that its configuration names and no others."""

from __future__ import annotations

import base64
import binascii
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from urllib.parse import quote

import httpx

from exporter import __version__
from exporter.errors import Reason
from exporter.ollama.error_mapping import probe_error
from exporter.plan import TargetPlan
from exporter.settings.secret_files import read_secret, read_token

LINE_BYTES_MAX = 8 * 2**20
"""A longer line is no answer of Ollama's: the longest, a final chunk with the `context` of 128k tokens, is 1 MB."""
CONNECT_SECONDS = 5.0
_PART_CHARACTERS_MIN = 6
"""A shorter part of a header's value is a word of its grammar, no secret."""


@cache
def _default_ssl_context() -> ssl.SSLContext:
    """Return the one context for all targets without TLS settings of their own: building one takes 28 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _ssl_context(plan: TargetPlan) -> ssl.SSLContext:
    if plan.insecure_skip_verify:
        return httpx.create_ssl_context(verify=False, trust_env=False)
    if plan.ca_file is not None:
        return ssl.create_default_context(cafile=str(plan.ca_file))
    return _default_ssl_context()


class TargetAuth(httpx.Auth):
    """Puts on each request what the target's configuration names, and takes off what the environment put there.

    The Ollama client sends `OLLAMA_API_KEY` as a bearer token on its own account. Secret files are read anew for each
    request, so that a rotated secret needs no reload; a file that cannot be read raises OSError, one that holds
    something else than one secret a `ProbeError`.
    """

    def __init__(self, plan: TargetPlan) -> None:
        self._plan = plan
        self._secrets: set[str] = set()
        for value in plan.headers.values():
            self._keep(*_parts(value))
        self._keep(plan.username, plan.password)

    def _keep(self, *secrets: str | None) -> None:
        """Remember what must never be told, in every form in which others may print it."""
        for secret in secrets:
            if secret:
                self._secrets.update(_forms(secret))

    def _credentials(self) -> str | None:
        plan = self._plan
        if plan.bearer_token_file is not None:
            token = _read(plan.bearer_token_file, read_token)
            self._keep(token)
            return f"Bearer {token}"
        if plan.username is not None:
            password = _read(plan.password_file, read_secret) if plan.password_file else plan.password or ""
            encoded = base64.b64encode(f"{plan.username}:{password}".encode()).decode()
            self._keep(password, encoded)
            return f"Basic {encoded}"
        return None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Set this program's name, the configured headers and the credentials; compressed answers are not wanted."""
        request.headers.pop("authorization", None)
        request.headers["user-agent"] = f"ollama-throughput-exporter/{__version__}"
        request.headers["accept-encoding"] = "identity"  # a proxy that compresses holds chunks back
        request.headers.update(self._plan.headers)
        credentials = self._credentials()
        if credentials is not None:
            request.headers["authorization"] = credentials
        yield request

    def redact(self, text: str) -> str:
        """Return the text with every secret that this target was ever sent replaced. Shorten it afterwards only."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "<secret>")
        return text


def _read(path: Path, read: Callable[[Path], str]) -> str:
    try:
        return read(path)
    except ValueError as error:
        wrong, _, remedy = str(error).partition(": ")
        raise probe_error(Reason.DENIED, f"{path}: {wrong}", remedy) from None


def _parts(value: str) -> Iterator[str]:
    """Yield a header's value and what a server may quote of it alone: a token, a cookie's value, a password."""
    yield value
    for part in re.split(r"[\s,;=]+", value):
        if len(part) >= _PART_CHARACTERS_MIN:
            yield part
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() == "basic":
        try:
            yield from base64.b64decode(credentials).decode().split(":", 1)
        except (binascii.Error, UnicodeDecodeError):
            return  # not what its scheme says: the server will refuse it


def _forms(secret: str) -> set[str]:
    """Return a secret as it is, in JSON's, Python's and URLs' spelling, and with its blanks made one each."""
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


class _Body(httpx.AsyncByteStream):
    """A response body that may flow for ever but has no line without end; its connection is closed with it."""

    def __init__(self, stream: httpx.AsyncByteStream, connection: httpx.AsyncHTTPTransport) -> None:
        self._stream = stream
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        line_bytes = 0
        async for data in self._stream:
            newline = data.rfind(b"\n")
            line_bytes = line_bytes + len(data) if newline < 0 else len(data) - newline - 1
            if line_bytes > LINE_BYTES_MAX:
                message = f"a line of more than {LINE_BYTES_MAX} bytes"
                raise httpx.RemoteProtocolError(message)
            yield data

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await self._connection.aclose()


class TargetTransport(httpx.AsyncBaseTransport):
    """A transport without proxies, with lines of bounded length and a new connection for each request.

    Probes are minutes apart: a connection kept open is one more thing that can be dead when it is used again. Each has
    a pool of its own, since httpcore's pool (1.0) keeps for ever the connection of a request that was cancelled before
    its first byte was sent, and is full after a hundred.
    """

    def __init__(self, plan: TargetPlan) -> None:
        self._ssl_context = _ssl_context(plan)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the body of its response is bounded."""
        connection = httpx.AsyncHTTPTransport(
            verify=self._ssl_context, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0), retries=0
        )
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - of an asynchronous transport
        response.stream = _Body(response.stream, connection)
        if response.headers.get("content-type"):
            response.headers["content-type"] = "application/json"  # UTF-8, whatever charset it claims
        return response


def no_cookies() -> CookieJar:
    """Return a jar that keeps nothing: what a server sets is never sent back."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def request_timeout() -> httpx.Timeout:
    """Return the limits within a request. There is none for reading: the probe's own deadline stands over it all."""
    return httpx.Timeout(connect=CONNECT_SECONDS, read=None, write=10.0, pool=CONNECT_SECONDS)
