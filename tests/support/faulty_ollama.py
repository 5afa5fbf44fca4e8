"""A scripted engine with faults, and with other clients that use its models."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from support.faults import Fault, FaultKind

from exporter.embedded.engine import Runner
from exporter.embedded.messages import LONGEST_NS, parse_keep_alive
from exporter.embedded.scripted import CPU_RATE_SHARE, ScriptedEngine, ScriptedModel
from exporter.embedded.values import GenerateRequest, Line, Model, OllamaError

RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"
NO_MEMORY = "llama runner process has terminated: cudaMalloc failed: out of memory"
BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"
BEFORE_TOKEN = {
    FaultKind.BUSY,
    FaultKind.OUT_OF_MEMORY,
    FaultKind.STALL_BEFORE_FIRST_TOKEN,
    FaultKind.STALL_IN_THE_MIDDLE,
}
"""The kinds that delay or end the generation of tokens."""
IN_STREAM = {
    FaultKind.CUT,
    FaultKind.ERROR_LINE,
    FaultKind.HALF_CLOSED,
    FaultKind.JUNK_LINE,
    FaultKind.LONG_LINE,
    FaultKind.NO_DONE,
}
"""The kinds that change or end the stream of lines."""


class HangUpError(Exception):
    """Drop the connection: reset it, or (`half`) close only the sending side."""

    def __init__(self, *, half: bool) -> None:
        super().__init__("half" if half else "reset")
        self.half = half


class FaultyEngine(ScriptedEngine):
    """Injects faults with `inject`, uses models as other clients do with `other_client`."""

    def __init__(self, models: Iterable[ScriptedModel] = (ScriptedModel(),), **scheduling: Any) -> None:
        super().__init__(models, **scheduling)
        self._faults: list[Fault] = []
        self._applied: dict[int, set[Fault]] = {}
        """The faults that were applied to a running request, by the id of its GenerateRequest."""
        self._other_clients: set[asyncio.Task[None]] = set()

    def inject(self, fault: Fault) -> Fault:
        """Start a fault in the running loop and return it; `fault.end()` ends it."""
        fault.starts_at = asyncio.get_running_loop().time() + fault.after_seconds
        self._faults.append(fault)
        if fault.kind is FaultKind.BUSY and not fault.after_tokens:
            self._start_other_client(fault)
        return fault

    def other_client(
        self,
        model: str | None = None,
        *,
        seconds: float | None = None,
        tokens: int | None = None,
        after_seconds: float = 0,
        keep_alive: float | str | None = None,
        num_ctx: int | None = None,
    ) -> asyncio.Task[None]:
        """Send the request of another client: it loads, waits and holds a slot for `seconds` or `tokens`.

        Without both it holds the slot until the returned task is cancelled.
        """

        async def use() -> None:
            await asyncio.sleep(after_seconds)
            found = self.find(model) if model else self.models()[0]
            if not isinstance(found, ScriptedModel):
                raise OllamaError(404, f"model '{model}' not found")
            holding = tokens / found.tokens_per_second if tokens is not None else seconds
            options = {} if num_ctx is None else {"num_ctx": num_ctx}
            async with self.hold(found, options, parse_keep_alive(keep_alive)) as runner, runner.slots:
                await (asyncio.Event().wait() if holding is None else asyncio.sleep(holding))

        task = asyncio.create_task(use(), name="other_client")
        self._other_clients.add(task)
        task.add_done_callback(self._other_clients.discard)
        return task

    async def close(self) -> None:
        """End the faults, cancel the other clients, unload."""
        for fault in self._faults:
            fault.end()
        self._faults.clear()
        tasks = list(self._other_clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()

    async def intercept(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, stall, send endless headers or drop the connection where a fault requires it."""
        path = request.path
        if self._apply(FaultKind.UNAUTHORIZED, path=path):
            raise OllamaError(401, "unauthorized")
        if self._apply(FaultKind.FORBIDDEN, path=path):
            raise OllamaError(403, None)
        if self._apply(FaultKind.SERVER_BUSY, path=path):
            raise OllamaError(503, BUSY_TEXT)
        if fault := self._apply(FaultKind.ENDLESS_HEADERS, path=path):
            return await _send_endless_headers(request, fault.value(0.01))
        if (fault := self._active(FaultKind.STALL_BEFORE_FIRST_TOKEN, path=path)) and fault.path:
            fault.count()
            await fault.wait()
        try:
            return await handler(request)
        except HangUpError as error:
            return await _hang_up(request, half=error.half)

    def expired(self, runner: Runner) -> bool:
        """Return whether an idle model's time is over, or it is cold by a fault."""
        return bool(self._active(FaultKind.COLD, runner.model)) or super().expired(runner)

    def stale(self, runner: Runner, context_length: int, options: Mapping[str, Any]) -> bool:
        """Return whether the runner must be restarted: for its options, or because it is dead."""
        return self._is_dead(runner) or super().stale(runner, context_length, options)

    async def load(self, model: Model, context_length: int) -> None:
        """Load, fail or wait for the end of a fault."""
        if fault := self._apply(FaultKind.OUT_OF_MEMORY, model):
            raise OllamaError(500, fault.text or NO_MEMORY)
        if fault := self._active(FaultKind.LOAD_FOREVER, model):
            await fault.wait()
        await super().load(model, context_length)

    def current(self, model: ScriptedModel, tokens: int | None = None) -> ScriptedModel:
        """Return the model as the active faults make it."""
        current = super().current(model, tokens)
        if not self._faults:
            return current
        if fault := self._active(FaultKind.SLOW, model, tokens):
            current = current.at_rate(fault.value(1 / 3))
        if self._active(FaultKind.CPU, model, tokens):
            current = current.with_gpu_share(0.0)
        elif self._active(FaultKind.CPU_HIDDEN, model, tokens):
            current = current.at_rate(CPU_RATE_SHARE)
        if fault := self._active(FaultKind.PARTIAL_OFFLOAD, model, tokens):
            current = current.with_gpu_share(fault.value(0.72))
        if fault := self._active(FaultKind.THINKING, model, tokens):
            current = replace(current, thinking_ratio=fault.value(0.5), always_thinks=True)
        if self._active(FaultKind.CLOUD, model, tokens):
            current = replace(current, remote_host="https://cloud.example")
        if self._active(FaultKind.EMBEDDING_ONLY, model, tokens):
            current = replace(current, capabilities=("embedding",))
        return current

    async def before_token(self, request: GenerateRequest, runner: Runner, index: int) -> None:
        """Apply the faults that delay or end the generation."""
        if not self._faults:
            return
        if self._is_dead(runner, index):
            raise OllamaError(500, RUNNER_DIED)
        for fault in self._apply_once(request, BEFORE_TOKEN, index):
            match fault.kind:
                case FaultKind.BUSY:
                    self._start_other_client(fault)
                case FaultKind.OUT_OF_MEMORY:
                    raise OllamaError(500, fault.text or NO_MEMORY)
                case _:
                    await fault.wait()

    async def answer(
        self, request: GenerateRequest, runner: Runner, loaded_at: float
    ) -> AsyncGenerator[Line | bytes, None]:
        """Yield the lines of the scripted answer as the faults change them."""
        self._applied[id(request)] = set()
        tokens = 0
        try:
            async with aclosing(super().answer(request, runner, loaded_at)) as lines:
                async for line in lines:
                    assert isinstance(line, dict)
                    if line["done"]:
                        for final in self._distort(line, request.model, tokens):
                            yield final
                        return
                    for fault in self._apply_once(request, IN_STREAM, tokens):
                        for piece in _sent(fault):
                            yield piece
                        if fault.kind is FaultKind.NO_DONE:
                            return
                    if trickle := self._active(FaultKind.TRICKLE, request.model, tokens):
                        async for byte in _trickle(line, trickle.value(1)):
                            yield byte
                    else:
                        yield line
                    tokens += 1
        finally:
            del self._applied[id(request)]

    def _distort(self, final: Line, model: Model, tokens: int) -> Iterator[Line]:
        """Yield the final line or lines as the faults change them."""
        durations = [key for key in final if key.endswith("_duration")]
        if fault := self._apply(FaultKind.UNKNOWN_DONE_REASON, model, tokens):
            final["done_reason"] = fault.text or "unlisted"
        if self._apply(FaultKind.ZERO_DURATIONS, model, tokens):
            final |= dict.fromkeys(durations, 0)
        if self._apply(FaultKind.NEGATIVE_DURATIONS, model, tokens):
            final |= {key: -final[key] for key in durations}
        if self._apply(FaultKind.ABSURD_DURATIONS, model, tokens):
            final |= dict.fromkeys(durations, LONGEST_NS)
        if self._apply(FaultKind.NO_DURATIONS, model, tokens):
            final = {key: value for key, value in final.items() if key not in durations}
        yield final
        if self._apply(FaultKind.DONE_TWICE, model, tokens):
            yield final

    def _is_dead(self, runner: Runner, tokens: int | None = None) -> bool:
        fault = self._active(FaultKind.DEAD_MODEL, runner.model, tokens)
        return fault is not None and fault.began_at is not None and runner.loaded_at < fault.began_at

    def _active(
        self, kind: FaultKind, model: Model | None = None, tokens: int | None = None, path: str | None = None
    ) -> Fault | None:
        """Return the active fault of this kind, if there is one."""
        for fault in self._faults:
            on_path = fault.path is None or path is None or fault.path == path
            if fault.kind is kind and on_path and _matches(fault, model, tokens):
                return fault
        return None

    def _apply(
        self, kind: FaultKind, model: Model | None = None, tokens: int | None = None, path: str | None = None
    ) -> Fault | None:
        """Return the active fault of this kind and count this request."""
        if fault := self._active(kind, model, tokens, path):
            fault.count()
        return fault

    def _apply_once(self, request: GenerateRequest, kinds: set[FaultKind], tokens: int) -> Iterator[Fault]:
        """Yield the active faults of these kinds that were not applied to this request before, and count them."""
        applied = self._applied[id(request)]
        for fault in [fault for fault in self._faults if fault.kind in kinds and fault not in applied]:
            elsewhere = {
                FaultKind.STALL_IN_THE_MIDDLE: tokens == 0,
                FaultKind.STALL_BEFORE_FIRST_TOKEN: tokens > 0,
                FaultKind.BUSY: not fault.after_tokens,  # the other client started with the injection
            }
            if not fault.path and not elsewhere.get(fault.kind) and _matches(fault, request.model, tokens):
                applied.add(fault)
                fault.count()
                yield fault

    def _start_other_client(self, fault: Fault) -> None:
        after_seconds = max(0.0, fault.starts_at - asyncio.get_running_loop().time())
        fault.task = self.other_client(fault.model, seconds=fault.seconds, after_seconds=after_seconds)


def _matches(fault: Fault, model: Model | None, tokens: int | None) -> bool:
    """Return whether a fault concerns this model (None: any) and is active."""
    if model is not None and fault.model is not None and Model(fault.model).full_name != model.full_name:
        return False
    return fault.is_active(asyncio.get_running_loop().time(), tokens)


def _sent(fault: Fault) -> Iterator[Line | bytes]:
    """Yield what a fault puts into the stream, or end the stream. Empty bytes send the headers."""
    match fault.kind:
        case FaultKind.JUNK_LINE:
            yield (fault.text or "<html><body>502 Bad Gateway</body></html>").encode() + b"\n"
        case FaultKind.LONG_LINE:
            yield b'{"response":"'
            yield from itertools.repeat(b"x" * 10**6, round(fault.value(10**8)) // 10**6)
            yield b'","done":false}\n'
        case FaultKind.ERROR_LINE:
            yield b""
            raise OllamaError(500, fault.text or RUNNER_DIED)
        case FaultKind.CUT | FaultKind.HALF_CLOSED:
            yield b""
            raise HangUpError(half=fault.kind is FaultKind.HALF_CLOSED)


async def _trickle(line: Line, seconds: float) -> AsyncIterator[bytes]:
    for byte in json.dumps(line).encode() + b"\n":
        await asyncio.sleep(seconds)
        yield bytes([byte])


async def _send_endless_headers(request: web.Request, seconds: float) -> web.Response:
    """Send header lines until the client closes the connection."""
    numbers = itertools.count()
    line = b"HTTP/1.1 200 OK\r\n"
    while request.transport is not None:
        request.transport.write(line)
        line = f"X-Filler-{next(numbers):08d}: {'x' * 43}\r\n".encode()
        await asyncio.sleep(seconds)
    return web.Response()


async def _hang_up(request: web.Request, *, half: bool) -> web.Response:
    """Close the sending side and wait until the client closes the other one, or reset the connection."""
    transport = request.transport
    if transport is None:
        return web.Response()
    if half:
        transport.write_eof()
        await asyncio.Event().wait()  # cancelled when the client closes its side
    reset = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: unsent data is discarded and the client sees a reset
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    transport.abort()
    return web.Response()
