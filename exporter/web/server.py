"""The HTTP server: metrics, status page and health checks, on the event loop that the probes share."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from exporter.errors import SettingsError
from exporter.logs import get_logger
from exporter.metrics.exposition import Format, render
from exporter.state.store import StateStore
from exporter.web.health import HEALTHY
from exporter.web.negotiation import gzip_accepted, negotiate
from exporter.web.status_page import STYLE_HASH, render_status_page

SHUTDOWN_SECONDS = 0.25
"""How long requests in progress may still take at shutdown."""
_GZIP_LEVEL = 1  # takes a third of the time of level 5; the result is a tenth larger
_SECURITY_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src '{STYLE_HASH}'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create the server without listening. `clock` returns Unix seconds."""
        self._registry = registry
        self._state = state
        self._addresses = addresses
        self._telemetry_path = telemetry_path
        self._ready = ready
        self._clock = clock
        # Not the loop's default threads: those resolve names, which may hang.
        self._threads = ThreadPoolExecutor(2, "scrape")
        app = web.Application()
        app.router.add_get(telemetry_path, self._scrape)
        app.router.add_get("/", self._show_status)
        app.router.add_get("/-/healthy", self._show_healthy)
        app.router.add_get("/-/ready", self._show_ready)
        app.on_response_prepare.append(_set_security_headers)
        self._runner = web.AppRunner(
            app, handle_signals=False, access_log=None, logger=log, shutdown_timeout=SHUTDOWN_SECONDS
        )

    async def start(self) -> list[str]:
        """Listen on every address and return the URLs. Port 0 takes a free port; an empty host means every interface.

        Raises SettingsError if an address cannot be listened on; then none is.
        """
        await self._runner.setup()
        urls = []
        try:
            for host, port in self._addresses:
                site = web.SockSite(self._runner, _listen(host, port))
                await site.start()
                urls.append(site.name)
        except BaseException:
            await self.stop()
            raise
        return urls

    async def stop(self) -> None:
        """Close every address and connection, those of slow clients after at most twice `SHUTDOWN_SECONDS`."""
        await self._runner.cleanup()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _scrape(self, request: web.Request) -> web.Response:
        format_ = negotiate(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        names = frozenset(request.query.getall("name[]", []))
        compressed = gzip_accepted(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])))
        body = await self._in_thread(lambda: self._exposition(format_, names, compressed=compressed))
        headers = {hdrs.CONTENT_TYPE: format_.value, hdrs.VARY: "Accept, Accept-Encoding"}
        if compressed:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=body, headers=headers)

    def _exposition(self, format_: Format, names: frozenset[str], *, compressed: bool) -> bytes:
        body = render(self._registry, format_, names)
        return gzip.compress(body, _GZIP_LEVEL) if compressed else body

    async def _show_status(self, _: web.Request) -> web.Response:
        body = await self._in_thread(self._status_page)
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    def _status_page(self) -> bytes:
        page = render_status_page(self._state.statuses(), self._telemetry_path, self._clock())
        return page.encode(errors="replace")

    async def _in_thread(self, work: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _show_healthy(self, _: web.Request) -> web.Response:
        return web.Response(text=HEALTHY)

    async def _show_ready(self, _: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ready\n")
        return web.Response(text="starting\n", status=503)


async def _set_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)
    response.headers.pop(hdrs.SERVER, None)


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104 - every interface is configured
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        address_text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise SettingsError(
            f"web.listen_address: cannot listen on {address_text} ({error.strerror or error}). "
            "Choose another address with --web.listen-address, or stop the program that uses this one."
        ) from error
