"""Limits on connections: how many there are, and how long each may take.

aiohttp limits sizes (of the request line, of headers, of pipelined requests) and the idle time between two requests.
It does not limit the number of connections, the time until the first request or the end of a half-sent head, and the
time that a client takes to read a response: such a connection stays open, with its response in memory, for as long as
the client likes. What is added here uses the two interfaces that aiohttp offers: a server listens with any factory of
asyncio protocols, and a `RequestHandler` is such a protocol, whose public methods can be extended.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from exporter.logs import get_logger
from exporter.web.responses import secure

BACKLOG = 1024
"""Connections that may wait in the kernel. Beyond it, a client's connection is delayed by at least a second."""
ACCEPTED_AT_ONCE_MAX = 128
STALLED_SECONDS = 0.1
"""From this time without reading on, a client may be replaced by a new one."""
CHECKS_PER_LIMIT = 8
"""How often the connections are checked while the shortest time limit passes once."""
WRITE_BUFFER_BYTES = 2**15
"""From this number of unsent bytes on, a response waits for its client."""
LINGERING_SECONDS = 1
"""How long a request body is discarded after the response, so that the client can read the response."""
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\nConnection: close\r\n\r\n"


log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits on connections."""

    connections: int = 128
    """Open at the same time."""
    head_seconds: float = 10
    """From the start of the connection, or from the first byte of a later request, to the end of its headers."""
    write_seconds: float = 10
    """Without the client reading any more of a response."""
    idle_seconds: float = 75
    """Between two requests."""


class Connection(web.RequestHandler):
    """One connection, which knows since when it has waited for its client."""

    __slots__ = (
        "_busy",
        "_connections",
        "_idle_since",
        "_paused_at",
        "_progress_at",
        "_socket",
        "_unsent_bytes",
        "_waiting_since",
    )

    def __init__(self, connections: Connections, server: web.Server, logger: logging.Logger) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=connections.limits.idle_seconds,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,  # a small compressed body would block the event loop for seconds
            access_log=None,  # type: ignore[arg-type] # None for no access log, as AppRunner passes it on
            logger=logger,
        )
        self._connections = connections
        self._socket: asyncio.Transport | None = None
        self._waiting_since: float | None = None
        """The loop's time since when a request's head is awaited; None while idle or busy."""
        self._idle_since = 0.0
        self._busy = False
        self._paused_at: float | None = None
        """The loop's time since when a response waits for its client to read."""
        self._unsent_bytes = 0
        self._progress_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, or refuse the connection if there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio's servers pass
        self._socket = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        if not self._connections.admit(self):
            transport.write(_REFUSAL)
            transport.close()
            self.close()
            return
        self._waiting_since = self._connections.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request, which is the first one or completes the head."""
        if self._waiting_since is None and not self._busy:
            self._waiting_since = self._connections.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        """Note that the client reads more slowly than the response is written."""
        self._paused_at = self._connections.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._paused_at = None
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._connections.discard(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that is not HTTP or whose handler failed."""
        response = super().handle_error(request, status, exc, message)
        secure(response)
        return response

    def request_begins(self) -> None:
        """Note that a request's head is complete."""
        self._waiting_since = None
        self._busy = True

    def request_ends(self) -> None:
        """Note that a request has been handled; its response may be unsent."""
        self._busy = False
        self._idle_since = self._connections.time()

    def exceeds_a_limit(self, now: float) -> bool:
        """Return whether the client has let a time limit pass. Called at regular intervals."""
        assert self._socket is not None  # noqa: S101 - set before the connection is checked
        limits = self._connections.limits
        unsent = self._socket.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent_bytes:
            self._unsent_bytes, self._progress_at = unsent, now
        if now - self._progress_at >= limits.write_seconds:
            return True
        return self._waiting_since is not None and now - self._waiting_since >= limits.head_seconds

    def precedence(self, now: float) -> tuple[int, float] | None:
        """Return which connection is closed first for a new one, the smallest first; None while it is in use."""
        if self._waiting_since is not None:
            return 0, self._waiting_since
        if self._paused_at is not None:
            return (2, self._paused_at) if now - self._paused_at >= STALLED_SECONDS else None
        return None if self._busy else (1, self._idle_since)

    def abort(self) -> None:
        """Close the connection without sending the rest."""
        if self._socket is not None:
            self._socket.abort()


class Connections:
    """The open connections, and the factory of new ones.

    At the limit, a new connection takes the place of one whose client has not completed its request, or else of one
    that is idle between two requests, or else of one whose client does not read: always the one that has been so for
    the longest time. If there is none, the new one is refused.
    """

    def __init__(self, limits: ConnectionLimits, on_rejected: Callable[[], None]) -> None:
        """Start without connections. `on_rejected` is called for each one that the limit closes or refuses."""
        self.limits = limits
        self._connections_max = min(limits.connections, _descriptors() // 3)
        self.accepted_at_once_max = min(ACCEPTED_AT_ONCE_MAX, _descriptors() // 8)
        """Connections that asyncio accepts before the first of them is admitted or refused; it does so four times."""
        if self._connections_max < limits.connections:
            message = "limit on file descriptors reduces web.max_connections"
            log.warning(message, max_connections=self._connections_max)
        self._on_rejected = on_rejected
        self._open: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._interval_seconds = min(limits.head_seconds, limits.write_seconds) / CHECKS_PER_LIMIT
        self._next_check = self._loop.call_later(self._interval_seconds, self._check)

    def time(self) -> float:
        """Return the event loop's time in seconds."""
        return self._loop.time()

    def accept(self, server: web.Server, logger: logging.Logger) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, server, logger)

    def admit(self, connection: Connection) -> bool:
        """Add a connection that was made and return True, or return False if it has to be refused."""
        if len(self._open) >= self._connections_max:
            self._on_rejected()
            if not self._make_room():
                return False
        self._open.add(connection)
        return True

    def discard(self, connection: Connection) -> None:
        """Remove a connection that was closed."""
        self._open.discard(connection)

    def close(self) -> None:
        """Close all connections at once, and stop checking."""
        self._next_check.cancel()
        for connection in list(self._open):
            connection.abort()

    def _make_room(self) -> bool:
        now = self.time()
        candidates = [(order, connection) for connection in self._open if (order := connection.precedence(now))]
        if not candidates:
            return False
        _, first = min(candidates, key=lambda candidate: candidate[0])
        first.abort()
        self.discard(first)
        return True

    def _check(self) -> None:
        now = self.time()
        for connection in list(self._open):
            if connection.exceeds_a_limit(now):
                connection.abort()
        self._next_check = self._loop.call_later(self._interval_seconds, self._check)


def _descriptors() -> int:
    """Return how many file descriptors the process may open.

    Connections may use a third of them, and as many again until they are admitted or refused. If none were left, no
    connection would be accepted and all probes would fail.
    """
    try:
        import resource
    except ImportError:  # Windows
        return sys.maxsize
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


@web.middleware
async def note_requests(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tell the connection when a request begins and ends. Every request passes, those of unknown paths included."""
    connection = request.protocol
    assert isinstance(connection, Connection)  # noqa: S101 - made by `Connections.accept`
    connection.request_begins()
    try:
        return await handler(request)
    finally:
        connection.request_ends()
