"""The scheduler that all engines share: which models are loaded, and which requests wait, as observed with Ollama.

A request joins a load in progress, waits for running requests before a reload, and then for one of `num_parallel`
slots. Of the durations in the answer, only `total_duration` includes the wait for a slot. The keep-alive timer is
re-armed when the last request of a model ends and does not move while one runs. An expired model is unloaded at the
next request.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.embedded.values import NANOSECONDS, GenerateRequest, Line, Model, Timings, rfc3339

RELOAD_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
"""Options that, like `num_ctx`, make Ollama restart a model's runner when they change."""


@dataclass(slots=True, kw_only=True, eq=False)
class Runner:
    """A loaded model."""

    model: Model
    context_length: int
    options: Mapping[str, Any]
    """The `RELOAD_OPTIONS` with which it was loaded."""
    slots: asyncio.Semaphore
    loaded_at: float
    """By the loop's clock."""
    handle: Any = None
    """What the engine's `load` returned."""
    keep_alive_ns: int
    expires_ns: int | None = None
    """Unix time at which the model is unloaded; None until its first request ends."""
    requests: int = 0
    """Requests that use it now, running or waiting for a slot."""


class Engine(ABC):
    """Schedules requests. A subclass loads models and generates."""

    version = "0.33.0"

    def __init__(
        self,
        models: Iterable[Model],
        *,
        num_parallel: int = 1,
        max_loaded_models: int | None = None,
        default_context_length: int = 4096,
        default_keep_alive_seconds: float = 300,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.installed = list(models)
        self.num_parallel = num_parallel
        self.max_loaded_models = max_loaded_models
        self.default_context_length = default_context_length
        self.default_keep_alive_ns = int(default_keep_alive_seconds * NANOSECONDS)
        self.clock = clock
        """Returns the Unix time in nanoseconds."""
        self.loads = 0
        """Number of loads so far."""
        self._runners: dict[str, Runner] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._request_ended = asyncio.Event()

    @abstractmethod
    async def load(self, model: Model, context_length: int) -> Any:
        """Load a model and return what `answer` needs to use it."""

    @abstractmethod
    def answer(self, request: GenerateRequest, runner: Runner, loaded_at: float) -> AsyncGenerator[Line | bytes, None]:
        """Yield the lines of an answer while a slot is held. Bytes are sent unchanged."""

    async def unload(self, runner: Runner) -> None:  # noqa: B027 - optional for a subclass
        """Release what `load` returned."""

    async def intercept(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer an HTTP request with its handler. A subclass may answer differently or raise OllamaError."""
        return await handler(request)

    async def close(self) -> None:
        """Unload every model."""
        for runner in list(self._runners.values()):
            await self._unload(runner)

    def models(self) -> list[Model]:
        """Return the installed models."""
        return self.installed

    def find(self, name: str) -> Model | None:
        """Return the installed model of this name, with or without `:latest`."""
        full_name = Model(name).full_name.lower()
        return next((model for model in self.models() if model.full_name.lower() == full_name), None)

    async def loaded(self) -> list[Runner]:
        """Unload expired models and return the loaded ones, the latest first."""
        for runner in list(self._runners.values()):
            if not runner.requests and self.expired(runner):
                await self._unload(runner)
        return sorted(self._runners.values(), key=lambda runner: -runner.loaded_at)

    def expired(self, runner: Runner) -> bool:
        """Return whether the keep-alive time of an idle model has passed."""
        return runner.expires_ns is not None and self.clock() >= runner.expires_ns

    def stale(self, runner: Runner, context_length: int, options: Mapping[str, Any]) -> bool:
        """Return whether a request with these options requires a restart of the runner."""
        return (runner.context_length, runner.options) != (context_length, options)

    async def expire(self, model: Model) -> None:
        """Unload a model, now or when its last request ends."""
        if runner := self._runners.get(model.full_name):
            runner.keep_alive_ns = 0
            if not runner.requests:
                await self._unload(runner)

    @asynccontextmanager
    async def hold(
        self, model: Model, options: Mapping[str, Any], keep_alive_ns: int | None = None
    ) -> AsyncIterator[Runner]:
        """Keep a model loaded, loading it if necessary. The end of the last request re-arms its keep-alive timer."""
        runner = await self._acquire(model, options)
        runner.requests += 1
        if keep_alive_ns is not None:
            runner.keep_alive_ns = keep_alive_ns
        try:
            yield runner
        finally:
            runner.requests -= 1
            if not runner.requests:
                runner.expires_ns = self.clock() + runner.keep_alive_ns
            self._request_ended.set()
            self._request_ended = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Line | bytes, None]:
        """Yield the lines of one answer. An empty prompt only loads the model."""
        async with self.hold(request.model, request.options, request.keep_alive_ns) as runner:
            loaded_at = asyncio.get_running_loop().time()
            if not request.prompt:
                yield self.line(request, done=True, done_reason="load")
                return
            async with runner.slots, aclosing(self.answer(request, runner, loaded_at)) as lines:
                async for line in lines:
                    yield line

    def line(
        self, request: GenerateRequest, text: str = "", *, done: bool = False, thinking: bool = False, **final: Any
    ) -> Line:
        """Return one line of an answer. A value of 0 is left out, as Go's `omitempty` does."""
        line: Line = {"model": request.requested_name}
        if request.model.remote_host:
            line |= {"remote_model": request.model.name, "remote_host": request.model.remote_host}
        line |= {"created_at": rfc3339(self.clock()), "response": "" if thinking else text}
        if thinking:
            line["thinking"] = text
        return line | {"done": done} | {key: value for key, value in final.items() if value}

    def final_line(self, request: GenerateRequest, loaded_at: float, timings: Timings, context: list[int]) -> Line:
        """Return the last line of an answer, with its durations in nanoseconds."""
        total_seconds = asyncio.get_running_loop().time() - request.received_at
        return self.line(
            request,
            done=True,
            done_reason="stop" if timings.stopped else "length",
            context=None if request.raw else context,
            total_duration=round(total_seconds * NANOSECONDS),
            load_duration=round((loaded_at - request.received_at) * NANOSECONDS),
            prompt_eval_count=timings.prompt_tokens,
            prompt_eval_duration=round(timings.prefill_seconds * NANOSECONDS),
            eval_count=timings.tokens,
            eval_duration=max(1000, round(timings.decode_seconds * NANOSECONDS)),
        )

    async def _acquire(self, model: Model, options: Mapping[str, Any]) -> Runner:
        """Return the model's runner, loading or restarting it if necessary."""
        context_length = min(options.get("num_ctx") or self.default_context_length, model.context_length)
        reload_options = {key: options[key] for key in RELOAD_OPTIONS if options.get(key) is not None}
        async with self._locks[model.full_name]:
            await self.loaded()
            runner = self._runners.get(model.full_name)
            if runner and self.stale(runner, context_length, reload_options):
                while runner.requests:
                    await self._request_ended.wait()
                await self._unload(runner)
                runner = None
            if runner is None:
                await self._evict()
                handle = await self.load(model, context_length)
                self.loads += 1
                runner = self._runners[model.full_name] = Runner(
                    model=model,
                    context_length=context_length,
                    options=reload_options,
                    slots=asyncio.Semaphore(self.num_parallel),
                    loaded_at=asyncio.get_running_loop().time(),
                    handle=handle,
                    keep_alive_ns=self.default_keep_alive_ns,
                )
            return runner

    async def _evict(self) -> None:
        """Unload idle models until one more may be loaded."""
        while self.max_loaded_models is not None and len(self._runners) >= self.max_loaded_models:
            idle = [runner for runner in self._runners.values() if not runner.requests]
            if idle:
                await self._unload(min(idle, key=lambda runner: runner.expires_ns or 0))
            else:
                await self._request_ended.wait()

    async def _unload(self, runner: Runner) -> None:
        if self._runners.get(runner.model.full_name) is runner:
            del self._runners[runner.model.full_name]
        await asyncio.shield(self.unload(runner))
