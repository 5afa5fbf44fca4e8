"""How a target is reached: one connection per request, TLS as configured, and lines of bounded length."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from exporter.plan import TargetPlan

LINE_BYTES_MAX = 8 * 2**20
"""Ollama's longest line, a final chunk with the `context` of 128k tokens, is 1 MB."""
CONNECT_SECONDS = 5.0
WRITE_SECONDS = 10.0


class TargetTransport(httpx.AsyncBaseTransport):
    """A transport without proxies, with lines of bounded length and a new connection for each request.

    Probes are minutes apart, so a connection that is kept open is likely to be dead when it is used again. Each request
    has a pool of its own because httpcore's pool (1.0) never drops the connection of a request that was cancelled
    before its first byte was sent, and is full after a hundred of them.
    """

    def __init__(self, plan: TargetPlan) -> None:
        self._ssl_context = _ssl_context(plan)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its response, whose body is bounded."""
        connection = httpx.AsyncHTTPTransport(
            verify=self._ssl_context, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0), retries=0
        )
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - an asynchronous transport returns one
        response.stream = _BoundedLines(response.stream, connection)
        if response.headers.get("content-type"):
            # JSON is UTF-8 whatever charset the server declares, and httpx would look that one up and may fail.
            response.headers["content-type"] = "application/json"
        return response


class _BoundedLines(httpx.AsyncByteStream):
    """A response body whose lines are bounded; closing it closes its connection."""

    def __init__(self, stream: httpx.AsyncByteStream, connection: httpx.AsyncHTTPTransport) -> None:
        self._stream = stream
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        line_bytes = 0
        async for data in self._stream:
            newline = data.rfind(b"\n")
            line_bytes = line_bytes + len(data) if newline < 0 else len(data) - newline - 1
            if line_bytes > LINE_BYTES_MAX:
                raise httpx.RemoteProtocolError(f"a line of more than {LINE_BYTES_MAX} bytes")
            yield data

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await self._connection.aclose()


def _ssl_context(plan: TargetPlan) -> ssl.SSLContext:
    if plan.insecure_skip_verify:
        return httpx.create_ssl_context(verify=False, trust_env=False)
    if plan.ca_file is not None:
        return ssl.create_default_context(cafile=str(plan.ca_file))
    return _default_ssl_context()


@cache
def _default_ssl_context() -> ssl.SSLContext:
    """Return the context shared by all targets without TLS settings; creating one takes 28 ms."""
    return httpx.create_ssl_context(trust_env=False)


def no_cookies() -> CookieJar:
    """Return a cookie jar that stores nothing, so that a server's cookies are never sent back."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def request_timeout() -> httpx.Timeout:
    """Return the timeouts within a request. Reading has none: the caller sets a deadline for the whole request."""
    return httpx.Timeout(connect=CONNECT_SECONDS, read=None, write=WRITE_SECONDS, pool=CONNECT_SECONDS)
