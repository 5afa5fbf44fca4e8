"""Ollama's HTTP API over an engine, as observed with Ollama 0.24 and 0.33."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.embedded.engine import Engine
from exporter.embedded.messages import (
    check_request,
    generate_request,
    join_lines,
    parse_body,
    parse_keep_alive,
    ps_entry,
    show_response,
    tags_entry,
)
from exporter.embedded.values import Line, Model, OllamaError


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request that the server received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    """Parsed if it is JSON, else the text; None if empty."""


class OllamaServer:
    """An HTTP server in the running loop: `async with OllamaServer(engine) as server: server.url`."""

    def __init__(self, engine: Engine, *, requests_kept: int = 10_000) -> None:
        self.engine = engine
        self.url = ""
        self.requests: deque[ReceivedRequest] = deque(maxlen=requests_kept)
        """The latest requests, oldest first."""
        self.client_disconnects = 0
        """How often a client closed its connection before the end of its answer."""
        self._stopping = False
        self._runner: web.AppRunner | None = None

    @property
    def open_connections(self) -> int:
        """The number of clients that are connected now."""
        server = self._runner.server if self._runner else None
        return len(server.connections) if server else 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return the base URL. Port 0 selects a free one."""
        app = web.Application(middlewares=[self._middleware], client_max_size=2**26)
        app.add_routes(
            [
                web.get("/", self._root),
                web.get("/api/version", self._version),
                web.get("/api/tags", self._tags),
                web.get("/api/ps", self._ps, allow_head=False),
                web.post("/api/show", self._show),
                web.post("/api/generate", self._generate),
            ]
        )
        self._stopping = False
        self._runner = web.AppRunner(
            app, handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=0.01
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self.url

    async def stop(self) -> None:
        """Close every connection, cancel running requests, unload every model."""
        self._stopping = True
        if self._runner:
            await self._runner.cleanup()
            self._runner = None
        await self.engine.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record the request, pass it to the engine, and turn exceptions into Ollama's answers."""
        body = _parsed_or_text(await request.read())
        self.requests.append(ReceivedRequest(request.method, request.path, request.headers, body))
        try:
            return await self.engine.intercept(request, handler)
        except OllamaError as error:
            if error.text is None:
                return web.Response(status=error.status)
            return _json_response({"error": error.text}, error.status)
        except web.HTTPNotFound:
            return _text_response(404, "404 page not found")
        except web.HTTPMethodNotAllowed as error:
            return _text_response(405, "405 method not allowed", Allow=error.headers["Allow"])
        except ConnectionError:
            self.client_disconnects += 1
            return web.Response()
        except asyncio.CancelledError:
            self.client_disconnects += not self._stopping
            raise

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.Response:
        return _json_response({"version": self.engine.version})

    async def _tags(self, _: web.Request) -> web.Response:
        return _json_response({"models": [tags_entry(model) for model in self.engine.models()]})

    async def _ps(self, _: web.Request) -> web.Response:
        now_ns = self.engine.clock()
        entries = []
        for runner in await self.engine.loaded():
            model = self.engine.find(runner.model.name) or runner.model
            if not model.remote_host:
                entries.append(ps_entry(model, runner, now_ns))
        return _json_response({"models": entries})

    async def _show(self, request: web.Request) -> web.Response:
        body = parse_body(await request.read())
        name = body.get("model") or body.get("name") or ""
        return _json_response(show_response(self._model(name, Model(name).full_name)))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        received_at = asyncio.get_running_loop().time()
        body = parse_body(await request.read())
        parse_keep_alive(body.get("keep_alive"))  # Ollama refuses a bad value before an unknown model
        name = body.get("model") or ""
        generate = generate_request(body, self._model(name, name), received_at)
        if not generate.prompt and generate.keep_alive_ns == 0:
            await self.engine.expire(generate.model)
            return _json_response(self.engine.line(generate, done=True, done_reason="unload"))
        check_request(generate)
        async with aclosing(self.engine.generate(generate)) as lines:
            if not generate.prompt:
                return _json_response(await anext(lines))
            if body.get("stream") is False:
                return _json_response(await join_lines(lines))
            return await self._stream(request, lines)

    async def _stream(self, request: web.Request, lines: AsyncGenerator[Line | bytes, None]) -> web.StreamResponse:
        """Send the lines as they come. An error before the first one has its own status, a later one is a line."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.enable_chunked_encoding()
        try:
            async for line in lines:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(line if isinstance(line, bytes) else _encode(line) + b"\n")
        except OllamaError as error:
            if not response.prepared:
                raise
            await response.write(_encode({"error": error.text}) + b"\n")
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    def _model(self, name: str, shown_name: str) -> Model:
        """Return the model of this name, or raise the OllamaError that Ollama answers."""
        if model := self.engine.find(name):
            return model
        if name and not re.fullmatch(r"[\w.\-/:]+", name):
            raise OllamaError(400, "invalid model name")
        raise OllamaError(404, f"model '{shown_name}' not found")


def _parsed_or_text(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw.decode(errors="replace")


def _encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _json_response(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json", charset="utf-8")


def _text_response(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": "text/plain", **headers})
