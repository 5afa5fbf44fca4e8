"""Responses: their security headers, and large bodies that are sent in parts and shared between clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from aiohttp import hdrs, web

from exporter.web.status_page import STYLE_HASH

PART_BYTES = 2**15
"""The size in which a body is passed to the connection, which may copy what it cannot send at once."""
PROGRAM = "ollama-throughput-exporter"
"""The name by which responses identify this program."""
_SECURITY_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src '{STYLE_HASH}'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


def secure(response: web.StreamResponse) -> None:
    """Set the security headers, and name neither aiohttp nor its version."""
    response.headers.update(_SECURITY_HEADERS)
    response.headers[hdrs.SERVER] = PROGRAM  # aiohttp would add its own, with versions


async def secure_prepared(_: web.Request, response: web.StreamResponse) -> None:
    """Set the security headers of a response that is about to be sent, and leave out which software sends it."""
    secure(response)
    del response.headers[hdrs.SERVER]


class HeldBodies:
    """The bodies of responses that are being sent, which stay in memory until their clients have read them.

    Beyond the limit, the connection whose body has been held longest is closed. A body counts once, however many
    responses share it.
    """

    def __init__(self, bytes_max: int) -> None:
        """Start without bodies."""
        self._bytes_max = bytes_max
        self._held: dict[BodyResponse, tuple[bytes, asyncio.Transport]] = {}

    @contextlib.contextmanager
    def hold(self, response: BodyResponse, body: bytes, transport: asyncio.Transport) -> Iterator[None]:
        """Count a body while it is being sent."""
        self._held[response] = body, transport
        self._close_oldest(keep=response)
        try:
            yield
        finally:
            self._held.pop(response, None)

    def _close_oldest(self, keep: BodyResponse) -> None:
        sizes = {id(body): len(body) for body, _ in self._held.values()}
        users: dict[int, int] = {}
        for body, _ in self._held.values():
            users[id(body)] = users.get(id(body), 0) + 1
        total = sum(sizes.values())
        for response, (body, transport) in list(self._held.items()):
            if total <= self._bytes_max or response is keep:
                return
            transport.abort()
            del self._held[response]
            users[id(body)] -= 1
            if users[id(body)] == 0:
                total -= sizes[id(body)]


class BodyResponse(web.StreamResponse):
    """A response with a body of any size, of which only a small part is copied for a client that reads slowly."""

    def __init__(self, request: web.BaseRequest, body: bytes, held: HeldBodies, headers: dict[str, str]) -> None:
        """Create the response. For HEAD, only the length of the body is sent."""
        super().__init__(headers=headers)
        self.content_length = len(body)
        self._content = b"" if request.method == hdrs.METH_HEAD else body
        self._transport = request.transport
        self._held = held

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body. Raises ConnectionError if the connection is closed meanwhile."""
        content, self._content = self._content, b""
        if self._transport is not None:
            with self._held.hold(self, content, self._transport):
                view = memoryview(content)
                for start in range(0, len(view), PART_BYTES):
                    await self.write(view[start : start + PART_BYTES])
        await super().write_eof(data)
