"""Ollama's HTTP API over an engine, by what real Ollamas (0.24 and 0.33) were seen to answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.embedded.engine import Ask, Engine, Line, Model, OllamaError, parse_keep_alive, rfc3339

INTEGERS = (
    "num_ctx num_batch num_gpu main_gpu num_thread num_keep seed num_predict top_k repeat_last_n draft_num_predict"
)
FLOATS = "top_p min_p typical_p temperature repeat_penalty presence_penalty frequency_penalty"
REQUESTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Received:
    """One request that the server got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    """Parsed where it is JSON, else the text; None where there was none."""


class OllamaServer:
    """An HTTP server in the running loop: `async with OllamaServer(engine) as server: server.url`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.url = ""
        self.requests: list[Received] = []
        """The newest requests, oldest first."""
        self.client_disconnects = 0
        """How often a client closed its connection before its answer had ended."""
        self._stopping = False
        self._runner: web.AppRunner | None = None

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        server = self._runner.server if self._runner else None
        return len(server.connections) if server else 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return the base URL; port 0 takes a free one."""
        app = web.Application(middlewares=[self._around], client_max_size=2**26)
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
        """Close every connection, end what is running, unload."""
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
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keep the request, let the engine interfere, and turn what was raised into Ollama's answers."""
        raw = await request.read()
        self.requests.append(Received(request.method, request.path, request.headers, _readable(raw)))
        del self.requests[:-REQUESTS_KEPT]
        try:
            response = await self.engine.intercept(request, handler)
        except OllamaError as error:
            text = None if error.text is None else {"error": error.text}
            response = web.Response(status=error.status) if text is None else _json(text, error.status)
        except web.HTTPNotFound:
            response = _plain(404, "404 page not found")
        except web.HTTPMethodNotAllowed as error:
            response = _plain(405, "405 method not allowed", Allow=error.headers["Allow"])
        except ConnectionError:
            self.client_disconnects += 1
            response = web.Response()
        except asyncio.CancelledError:
            self.client_disconnects += not self._stopping
            raise
        return response

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": self.engine.version})

    async def _tags(self, _: web.Request) -> web.Response:
        return _json({"models": [_tag(model) for model in self.engine.models()]})

    async def _ps(self, _: web.Request) -> web.Response:
        models = []
        for runner in await self.engine.loaded():
            model = self.engine.find(runner.model.name) or runner.model
            if model.remote_host:
                continue
            size, size_vram = model.resident_bytes()
            expires = runner.expires_ns
            models.append(
                _identity(model)
                | {"size": size, "digest": model.sha256, "details": model.details()}
                | {"expires_at": rfc3339(self.engine.clock() + runner.keep_alive_ns if expires is None else expires)}
                | {"size_vram": size_vram, "context_length": runner.context_length}
            )
        return _json({"models": models})

    async def _show(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name = body.get("model") or body.get("name") or ""
        model = self._model(name, Model(name).full_name)
        return _json(_shown(model))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        arrived = asyncio.get_running_loop().time()
        body = await _body(request)
        parse_keep_alive(body.get("keep_alive"))  # refused before an unknown model is
        name = body.get("model") or ""
        ask = _ask(body, self._model(name, name), arrived)
        if not ask.prompt and ask.keep_alive_ns == 0:
            await self.engine.expire(ask.model)
            return _json(self.engine.line(ask, done=True, done_reason="unload"))
        _check(ask)
        async with aclosing(self.engine.generate(ask)) as lines:
            if not ask.prompt:
                return _json(await anext(lines))
            if body.get("stream") is False:
                return _json(await _whole(lines))
            return await self._stream(request, lines)

    async def _stream(self, request: web.Request, lines: AsyncGenerator[Line | bytes, None]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.enable_chunked_encoding()
        try:
            async for line in lines:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(line if isinstance(line, bytes) else _dumps(line) + b"\n")
        except OllamaError as error:
            if not response.prepared:
                raise
            await response.write(_dumps({"error": error.text}) + b"\n")
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    def _model(self, name: str, shown: str) -> Model:
        """Return the model of this name, or refuse as Ollama does."""
        if model := self.engine.find(name):
            return model
        if name and not re.fullmatch(r"[\w.\-/:]+", name):
            raise OllamaError(400, "invalid model name")
        raise OllamaError(404, f"model '{shown}' not found")


def _ask(body: Mapping[str, Any], model: Model, arrived: float) -> Ask:
    thinks, think = "thinking" in model.capabilities, body.get("think")
    return Ask(
        model=model,
        asked_name=body["model"],
        prompt=body.get("prompt") or "",
        raw=bool(body.get("raw")),
        think=thinks if think is None else bool(think),
        options=body.get("options") or {},
        keep_alive_ns=parse_keep_alive(body.get("keep_alive")),
        arrived=arrived,
    )


def _check(ask: Ask) -> None:
    """Refuse what the model cannot do, then options of a wrong type: Ollama's order."""
    for capability, wanted, name in (("thinking", ask.think, "thinking"), ("completion", True, "generate")):
        if wanted and capability not in ask.model.capabilities:
            raise OllamaError(400, f'"{ask.asked_name}" does not support {name}')
    for key, value in ask.options.items():
        _check_option(key, value)


def _check_option(key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = {
        **dict.fromkeys(INTEGERS.split(), ("integer", number)),
        **dict.fromkeys(FLOATS.split(), ("float32", number)),
        "use_mmap": ("boolean", isinstance(value, bool)),
        "stop": ("array", isinstance(value, list)),
    }
    kind, good = wanted.get(key, ("", True))
    if value is not None and not good:
        raise OllamaError(500, f'option "{key}" must be of type {kind}')


async def _body(request: web.Request) -> Mapping[str, Any]:
    """Return the JSON object that was sent, or refuse in the words of Go's decoder."""
    text = (await request.read()).decode(errors="replace")
    if not text:
        raise OllamaError(400, "missing request body")
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text):
            raise OllamaError(400, "unexpected EOF") from None
        place = "object key string" if "property name" in error.msg else "value"
        raise OllamaError(400, f"invalid character '{text[error.pos]}' looking for beginning of {place}") from None
    fields = {"model": str, "name": str, "prompt": str, "options": dict, "stream": bool, "raw": bool}
    for name, kind in fields.items() if isinstance(body, dict) else [("", dict)]:
        value = body.get(name) if isinstance(body, dict) else body
        if value is not None and not isinstance(value, kind):
            raise OllamaError(400, f"json: cannot unmarshal {type(value).__name__} into Go struct field {name}")
    return body or {}


async def _whole(lines: AsyncGenerator[Line | bytes, None]) -> Line:
    """Return the answer in one piece: the last line, with all the text."""
    last: Line = {}
    text = thinking = ""
    async for line in lines:
        if isinstance(line, dict):
            last, text, thinking = line, text + line["response"], thinking + line.get("thinking", "")
    return last | {"response": text} | ({"thinking": thinking} if thinking else {})


def _identity(model: Model) -> Line:
    return {"name": model.full_name, "model": model.full_name}


def _tag(model: Model) -> Line:
    remote = {"remote_model": model.name, "remote_host": model.remote_host} if model.remote_host else {}
    sizes = {"context_length": model.context_length, "embedding_length": model.embedding_length}
    return (
        _identity(model)
        | remote
        | {"modified_at": rfc3339(model.modified_ns), "size": model.size_bytes, "digest": model.sha256}
        | {"details": model.details() | sizes, "capabilities": list(model.capabilities)}
    )


def _shown(model: Model) -> Line:
    remote = {"remote_model": model.name, "remote_host": model.remote_host} if model.remote_host else {}
    head = '# Modelfile generated by "ollama show"\n\n'
    return remote | {
        "modelfile": f"{head}FROM {model.path}\nTEMPLATE {{{{ .Prompt }}}}\n",
        "template": "{{ .Prompt }}",
        "details": model.details(),
        "model_info": {
            "general.architecture": model.family,
            "general.parameter_count": _parameters(model.parameter_size),
            f"{model.family}.context_length": model.context_length,
            f"{model.family}.embedding_length": model.embedding_length,
        },
        "capabilities": list(model.capabilities),
        "modified_at": rfc3339(model.modified_ns),
    }


def _parameters(size: str) -> int:
    scale = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
    return round(float(size[:-1]) * scale[size[-1]]) if size[-1:] in scale else 0


def _readable(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw.decode(errors="replace")


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_dumps(value), status=status, content_type="application/json", charset="utf-8")


def _plain(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": "text/plain", **headers})
