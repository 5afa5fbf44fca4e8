"""A web server on a free port, with its state and clocks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx
from support.readings import FULL
from support.scraping import Scraped

from exporter.web.connections import ConnectionLimits
from exporter.web.server import DEFAULT_LIMITS, WebServer


class Served(Scraped):
    """A store that a web server can be started on."""

    def __init__(self) -> None:
        super().__init__(wall=FULL.finished_at)
        self.ready = False

    def server(self, *addresses: tuple[str, int], limits: ConnectionLimits = DEFAULT_LIMITS) -> WebServer:
        """Return a server that has not been started."""
        return WebServer(
            self.registry,
            self.store,
            addresses=addresses or (("127.0.0.1", 0),),
            ready=lambda: self.ready,
            limits=limits,
            clock=lambda: self.wall,
        )

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Run a server and yield a client of it."""
        server = self.server()
        [url] = await server.start()
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield client
        await server.stop()
