"""HTTP: the metrics, a landing page and the health of the process, on the event loop that everything shares."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from exporter.errors import SettingsError
from exporter.metrics.exposition import Format, render
from exporter.state.store import StateStore
from exporter.web.status_page import STYLE_HASH, page

SHUTDOWN_SECONDS = 0.25
"""How long a scrape under way may still take at shutdown."""
_GZIP_LEVEL = 1  # a third of the time of level 5, and a tenth longer
_SECURITY_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src '{STYLE_HASH}'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

_log = logging.getLogger(__name__)
# What a port scanner sends is no HTTP, and no error of ours.
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class WebServer:
    """Serves metrics and status on any number of addresses. Only GET and HEAD are answered; nothing can be changed."""

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
        self._registry = registry
        self._state = state
        self._addresses = addresses
        self._telemetry_path = telemetry_path
        self._ready = ready
        self._clock = clock
        # Not the loop's own threads: those wait for name servers, which may hang.
        self._threads = ThreadPoolExecutor(2, "scrape")
        app = web.Application()
        app.router.add_get(telemetry_path, self._scrape)
        if telemetry_path != "/":
            app.router.add_get("/", self._landing_page)
        app.router.add_get("/-/healthy", self._healthy)
        app.router.add_get("/-/ready", self._readiness)
        app.on_response_prepare.append(_secure)
        self._runner = web.AppRunner(
            app, handle_signals=False, access_log=None, logger=_log, shutdown_timeout=SHUTDOWN_SECONDS
        )

    async def start(self) -> list[str]:
        """Listen on every address and return their URLs; port 0 takes a free one, an empty host is every interface.

        Raises SettingsError where an address cannot be listened on; nothing is left listening then.
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
        """Close every address and connection, those that a slow client holds after at most twice SHUTDOWN_SECONDS."""
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

    async def _landing_page(self, _: web.Request) -> web.Response:
        body = await self._in_thread(self._page)
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    def _page(self) -> bytes:
        return page(self._state.statuses(), self._telemetry_path, self._clock()).encode(errors="replace")

    async def _in_thread(self, work: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ready\n")
        return web.Response(text="starting\n", status=503)


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)
    response.headers.pop(hdrs.SERVER, None)


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104 - asked for
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise SettingsError(
            f"web.listen_address: cannot listen on {where}: {error.strerror or error}; "
            "free that port, or choose another by --web.listen-address"
        ) from error


def negotiate(accept: str) -> Format:
    """Return the format that an Accept header likes best; the text format where it names none that is served.

    Only versions that are really served count: Prometheus also offers some that are not.
    """
    best, chosen = 0.0, Format.TEXT
    for media_range in accept.split(","):
        kind, *parameters = (part.strip() for part in media_range.lower().split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        version = given.get("version", "").strip('"')
        try:
            quality = float(given.get("q", "1"))
        except ValueError:
            continue
        if kind == "application/openmetrics-text" and version in {"", "1.0.0"}:
            offered = Format.OPENMETRICS
        elif (kind == "text/plain" and version in {"", "0.0.4"}) or kind in {"text/*", "*/*"}:
            offered = Format.TEXT
        else:
            continue
        if quality > best:
            best, chosen = quality, offered
    return chosen


def gzip_accepted(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header takes gzip; `gzip;q=0` refuses it."""
    for coding in accept_encoding.lower().split(","):
        name, _, quality = coding.partition(";")
        if name.strip() in {"gzip", "*"}:
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality)
    return False
