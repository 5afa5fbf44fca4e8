"""How a target is reached: one connection per request, TLS as configured, and answers of bounded length."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from exporter.ollama.answers import body_of
from exporter.ollama.network import Network
from exporter.ollama.tls import tls_of
from exporter.plan import TargetPlan

CONNECT_SECONDS = 4.0
"""Shorter than the deadline of an answer, so that a host that drops packets is a failure to connect."""
WRITE_SECONDS = 10.0


class TargetTransport(httpx.AsyncBaseTransport):
    """A transport without proxies and redirects, with a new connection for each request.

    Probes are minutes apart, so a connection that is kept open is probably closed before it is used again. Exceptions
    of httpcore are not converted to those of httpx: `error_mapping` knows both.
    """

    def __init__(self, plan: TargetPlan) -> None:
        self._network = Network()
        self._tls = tls_of(plan)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its response, whose body is bounded."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        ssl_context = await self._tls.context() if request.url.scheme == "https" else None
        connection = httpcore.AsyncHTTPConnection(url.origin, ssl_context, network_backend=self._network)
        try:
            answer = await connection.handle_async_request(
                httpcore.Request(
                    request.method,
                    url,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
            response = httpx.Response(
                answer.status,
                headers=answer.headers,
                stream=_Stream(answer, connection),
                extensions=answer.extensions,
            )
            response.stream = body_of(response, request)
        except BaseException:
            await connection.aclose()
            raise
        if response.headers.get("content-type"):
            # JSON is UTF-8 whatever charset the server declares, and httpx would look that one up and may fail.
            response.headers["content-type"] = "application/json"
        return response


class _Stream(httpx.AsyncByteStream):
    """The body of an answer; closing it closes its connection."""

    def __init__(self, answer: httpcore.Response, connection: httpcore.AsyncHTTPConnection) -> None:
        self._answer = answer
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._answer.aiter_stream():
            yield data

    async def aclose(self) -> None:
        try:
            await self._answer.aclose()
        finally:
            await self._connection.aclose()


def no_cookies() -> CookieJar:
    """Return a cookie jar that stores nothing, so that a server's cookies are never sent back."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def request_timeout() -> httpx.Timeout:
    """Return the timeouts within a request. Reading has none: the caller sets a deadline for the whole request."""
    return httpx.Timeout(connect=CONNECT_SECONDS, read=None, write=WRITE_SECONDS, pool=None)
