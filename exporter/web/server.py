"""The HTTP server: metrics, status page and health checks, on the event loop that the probes share."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import socket
import time
from collections.abc import Callable, Hashable, Sequence

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from exporter.errors import SettingsError
from exporter.logs import get_logger
from exporter.metrics.exposition import Format, render
from exporter.state.store import StateStore
from exporter.web.accept_errors import AcceptErrorFilter
from exporter.web.connections import BACKLOG, ConnectionLimits, Connections, note_requests
from exporter.web.health import HEALTHY
from exporter.web.negotiation import gzip_accepted, negotiate
from exporter.web.responses import BodyResponse, HeldBodies, secure_prepared
from exporter.web.shared_work import BusyError, SharedWork
from exporter.web.status_page import render_status_page

SHUTDOWN_SECONDS = 0.25
"""How long requests in progress may still take at shutdown."""
WAITING_MAX = 16
"""Different pages and filtered scrapes that may wait for their rendering; further ones are refused."""
HELD_BYTES_MAX = 2**24
"""Bodies of responses that clients have not read yet."""
SEND_BUFFER_BYTES = 2**17
"""The kernel's buffer of each connection, instead of one that grows to several MB for a client that does not read."""
DEFAULT_LIMITS = ConnectionLimits()
_GZIP_LEVEL = 1  # takes a third of the time of level 5; the result is a tenth larger

log = get_logger(__name__).logger  # the standard one, because aiohttp logs with %-style arguments
# Bytes that are not HTTP, as port scanners send them, are not an error of this program.
log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class WebServer:
    """Serves metrics, status page and health checks on any number of addresses. Only GET and HEAD are answered."""

    def __init__(
        self,
        registry: CollectorRegistry,
        state: StateStore,
        *,
        addresses: Sequence[tuple[str, int]],
        telemetry_path: str = "/metrics",
        ready: Callable[[], bool],
        limits: ConnectionLimits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create the server without listening. `clock` returns Unix seconds."""
        self._registry = registry
        self._state = state
        self._addresses = addresses
        self._telemetry_path = telemetry_path
        self._ready = ready
        self._clock = clock
        self._limits = limits
        # Not the loop's default executor: its threads also resolve names, which may hang. Full scrapes have their own
        # thread: there are only four kinds of them, so that filtered ones of any number do not delay them.
        self._scrapes = SharedWork("scrape", WAITING_MAX)
        self._others = SharedWork("page", WAITING_MAX)
        self._held = HeldBodies(HELD_BYTES_MAX)
        app = web.Application(middlewares=[note_requests])
        app.router.add_get(telemetry_path, self._scrape)
        app.router.add_get("/", self._show_status)
        app.router.add_get("/-/healthy", self._show_healthy)
        app.router.add_get("/-/ready", self._show_ready)
        app.on_response_prepare.append(secure_prepared)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
        self._connections: Connections | None = None
        self._listeners: list[asyncio.Server] = []
        self._accept_errors = AcceptErrorFilter()

    async def start(self) -> list[str]:
        """Listen on every address and return the URLs. Port 0 takes a free port; an empty host means every interface.

        Raises SettingsError if it cannot listen on one of the addresses; the others are closed.
        """
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101 - it has been set up
        connections = self._connections = Connections(self._limits, self._state.connection_rejected)
        logging.getLogger("asyncio").addFilter(self._accept_errors)
        loop = asyncio.get_running_loop()
        urls = []
        try:
            for host, port in self._addresses:
                listening = _listen(host, port)
                # asyncio accepts as many connections at once as its backlog says; the kernel's may be longer.
                listener = await loop.create_server(
                    lambda: connections.accept(server, log), sock=listening, backlog=connections.accepted_at_once_max
                )
                listening.listen(BACKLOG)
                self._listeners.append(listener)
                urls.append(_url(listening))
        except BaseException:
            await self.stop()
            raise
        return urls

    async def stop(self) -> None:
        """Close all sockets. Slow clients are disconnected after at most twice `SHUTDOWN_SECONDS`."""
        for listener in self._listeners:
            listener.close()
        await self._runner.cleanup()
        if self._connections is not None:
            self._connections.close()
        logging.getLogger("asyncio").removeFilter(self._accept_errors)
        self._scrapes.close()
        self._others.close()

    async def _scrape(self, request: web.Request) -> web.StreamResponse:
        format_ = negotiate(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        names = frozenset(request.query.getall("name[]", []))
        compressed = gzip_accepted(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])))
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: format_.value, hdrs.VARY: "Accept, Accept-Encoding"}
        if compressed:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        work = self._others if names else self._scrapes
        return await self._rendered(
            request,
            work,
            (format_, names, compressed),
            lambda: self._exposition(format_, names, compressed=compressed),
            headers,
        )

    def _exposition(self, format_: Format, names: frozenset[str], *, compressed: bool) -> bytes:
        body = render(self._registry, format_, names)
        return gzip.compress(body, _GZIP_LEVEL) if compressed else body

    async def _show_status(self, request: web.Request) -> web.StreamResponse:
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: "text/html; charset=utf-8"}
        return await self._rendered(request, self._others, "status page", self._status_page, headers)

    def _status_page(self) -> bytes:
        page = render_status_page(self._state.statuses(), self._telemetry_path, self._clock())
        return page.encode(errors="replace")

    async def _rendered(
        self,
        request: web.Request,
        work: SharedWork,
        key: Hashable,
        function: Callable[[], bytes],
        headers: dict[str, str],
    ) -> web.StreamResponse:
        try:
            body = await work.run(key, function)
        except BusyError:
            raise web.HTTPServiceUnavailable(text="too many requests\n", headers={hdrs.RETRY_AFTER: "1"}) from None
        return BodyResponse(request, body, self._held, headers)

    async def _show_healthy(self, _: web.Request) -> web.Response:
        return web.Response(text=HEALTHY)

    async def _show_ready(self, _: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ready\n")
        return web.Response(text="starting\n", status=503)


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound. Connections inherit its send buffer."""
    listening = _bind(host, port)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listening


def _bind(host: str, port: int) -> socket.socket:
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104 - every interface is configured
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        # `create_server` adds the address to `strerror`. Resolver errors have negative numbers.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        address_text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise SettingsError(
            f"web.listen_address: cannot listen on {address_text} ({reason}). "
            "Choose another address with --web.listen-address, or stop the program that uses this one."
        ) from error
