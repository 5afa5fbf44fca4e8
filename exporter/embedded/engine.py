"""What both engines share: models, who has one loaded, who waits for whom, as Ollama was seen to do it.

A request joins a load in progress, waits for the others before a reload, and then for one of `num_parallel` slots; only
the wait for a slot is in none of the durations but `total_duration`. The keep-alive timer is re-armed when the last
request of a model ends and does not move while one runs. An expired model is dropped at the next request.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

SECOND = 10**9
FOREVER = 2**63 - 1
"""Nanoseconds of a negative `keep_alive`: Go's longest duration, 292 years."""
RELOADING = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
"""Options that, beside `num_ctx`, make Ollama start a model's runner anew when they differ."""

GO_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}

Line = dict[str, Any]


def rfc3339(nanoseconds: int) -> str:
    """Return a moment as Go prints it: UTC, up to nine decimals without trailing zeros."""
    seconds, rest = divmod(nanoseconds, SECOND)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


class OllamaError(Exception):
    """An answer other than 200: `text` becomes `{"error": text}`, None an empty body; mid-stream it is a last line."""

    def __init__(self, status: int, text: str | None) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text


def parse_keep_alive(value: Any) -> int | None:
    """Return nanoseconds: numbers are seconds, texts Go durations, anything negative is for ever."""
    if value is None:
        return None
    if value == "0":
        return 0
    if isinstance(value, str):
        parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", value)
        if not parts or "".join(map("".join, parts)) != value.lstrip("+-"):
            raise OllamaError(400, f'time: invalid duration "{value}"')
        nanoseconds = sum(round(float(number) * GO_UNITS[unit]) for number, unit in parts)
        return FOREVER if value.startswith("-") else nanoseconds
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OllamaError(400, "invalid keep_alive")
    return FOREVER if value < 0 else round(value * SECOND)


@dataclass(frozen=True)
class Model:
    """One installed model, as `/api/tags` and `/api/show` tell it."""

    name: str
    _: KW_ONLY
    size_bytes: int = 4_920_753_328
    """Of the file (`/api/tags`)."""
    digest: str = ""
    """64 hex digits; empty derives them from the name."""
    family: str = "llama"
    parameter_size: str = "8.0B"
    quantization_level: str = "Q4_K_M"
    context_length: int = 131_072
    """The most that the model can be loaded with."""
    embedding_length: int = 4096
    capabilities: tuple[str, ...] = ("completion",)
    remote_host: str = ""
    """Set for a model that runs in somebody's cloud."""
    blob: str = ""
    """Path of the weights' file; empty derives it from the digest."""
    modified_ns: int = 1_780_000_000 * SECOND

    @property
    def full_name(self) -> str:
        """The name with its tag."""
        return self.name if ":" in self.name.rpartition("/")[2] else f"{self.name}:latest"

    @property
    def sha256(self) -> str:
        """The digest."""
        return self.digest or hashlib.sha256(self.full_name.encode()).hexdigest()

    @property
    def path(self) -> str:
        """Where the weights lie: what `/api/show` says after FROM."""
        return self.blob or f"/models/blobs/sha256-{hashlib.sha256(self.sha256.encode()).hexdigest()}"

    def resident_bytes(self) -> tuple[int, int]:
        """Return `size` and `size_vram` of `/api/ps`."""
        return self.size_bytes, 0

    def details(self) -> Line:
        """Return the `details` of `/api/ps` and `/api/show`."""
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": self.parameter_size,
            "quantization_level": self.quantization_level,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to `/api/generate`, already checked."""

    model: Model
    asked_name: str
    prompt: str
    raw: bool
    think: bool
    options: Mapping[str, Any]
    keep_alive_ns: int | None
    arrived: float
    """By the loop's clock."""

    @property
    def num_predict(self) -> int | None:
        """The most tokens to generate, None where nothing limits them."""
        limit = int(self.options.get("num_predict") or 0)
        return limit if limit > 0 else None


@dataclass(slots=True, kw_only=True, eq=False)
class Runner:
    """A loaded model."""

    model: Model
    context_length: int
    options: Mapping[str, Any]
    slots: asyncio.Semaphore
    loaded_at: float
    handle: Any = None
    """What the engine's `load` returned."""
    keep_alive_ns: int = 300 * SECOND
    expires_ns: int | None = None
    users: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """What an engine measured of one answer."""

    prompt_tokens: int
    prefill_seconds: float
    tokens: int
    decode_seconds: float
    """From the first token to the last, as Ollama's `eval_duration`."""
    stopped: bool
    """Whether the model came to its own end, before `num_predict`."""


class Engine(ABC):
    """The scheduler; a subclass loads and generates."""

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
        self.default_keep_alive_ns = int(default_keep_alive_seconds * SECOND)
        self.clock = clock
        self.loads = 0
        """How often a model was loaded."""
        self._runners: dict[str, Runner] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._freed = asyncio.Event()

    @abstractmethod
    async def load(self, model: Model, context_length: int) -> Any:
        """Load a model and return what `answer` needs to use it."""

    @abstractmethod
    def answer(self, ask: Ask, runner: Runner, loaded_at: float) -> AsyncGenerator[Line | bytes, None]:
        """Yield the lines of the answer, the slot held; bytes go out as they are."""

    async def unload(self, runner: Runner) -> None:  # noqa: B027 - a hook
        """Release what `load` returned."""

    async def intercept(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request with its handler. A subclass may answer otherwise or raise OllamaError."""
        return await handler(request)

    async def close(self) -> None:
        """Unload everything."""
        for runner in list(self._runners.values()):
            await self._drop(runner)

    def models(self) -> list[Model]:
        """Return the installed models."""
        return self.installed

    def find(self, name: str) -> Model | None:
        """Return the installed model of this name, with or without `:latest`."""
        full = Model(name).full_name.lower()
        return next((model for model in self.models() if model.full_name.lower() == full), None)

    async def loaded(self) -> list[Runner]:
        """Return what is loaded now, the newest first, after dropping what has expired."""
        for runner in list(self._runners.values()):
            if not runner.users and self.expired(runner):
                await self._drop(runner)
        return sorted(self._runners.values(), key=lambda runner: -runner.loaded_at)

    def expired(self, runner: Runner) -> bool:
        """Whether an idle model's time is up."""
        return runner.expires_ns is not None and self.clock() >= runner.expires_ns

    def stale(self, runner: Runner, context_length: int, options: Mapping[str, Any]) -> bool:
        """Whether a request with these options needs the runner to be started anew."""
        return (runner.context_length, runner.options) != (context_length, options)

    async def expire(self, model: Model) -> None:
        """Unload a model as soon as nobody uses it."""
        if runner := self._runners.get(model.full_name):
            runner.keep_alive_ns = 0
            if not runner.users:
                await self._drop(runner)

    @asynccontextmanager
    async def hold(
        self, model: Model, options: Mapping[str, Any], keep_alive_ns: int | None = None
    ) -> AsyncIterator[Runner]:
        """Use a model, loading it if need be; leaving re-arms its timer when nobody else uses it."""
        runner = await self._acquire(model, options)
        runner.users += 1
        if keep_alive_ns is not None:
            runner.keep_alive_ns = keep_alive_ns
        try:
            yield runner
        finally:
            runner.users -= 1
            if not runner.users:
                runner.expires_ns = self.clock() + runner.keep_alive_ns
            self._freed.set()
            self._freed = asyncio.Event()

    async def generate(self, ask: Ask) -> AsyncGenerator[Line | bytes, None]:
        """Yield the lines of one answer."""
        async with self.hold(ask.model, ask.options, ask.keep_alive_ns) as runner:
            loaded_at = asyncio.get_running_loop().time()
            if not ask.prompt:
                yield self.line(ask, done=True, done_reason="load")
                return
            async with runner.slots, aclosing(self.answer(ask, runner, loaded_at)) as lines:
                async for line in lines:
                    yield line

    def line(self, ask: Ask, text: str = "", *, done: bool = False, thinking: bool = False, **final: Any) -> Line:
        """Return one line of an answer. A value of 0 is left out, as Go's `omitempty` does."""
        line: Line = {"model": ask.asked_name}
        if ask.model.remote_host:
            line |= {"remote_model": ask.model.name, "remote_host": ask.model.remote_host}
        line |= {"created_at": rfc3339(self.clock()), "response": "" if thinking else text}
        if thinking:
            line["thinking"] = text
        return line | {"done": done} | {key: value for key, value in final.items() if value}

    def final(self, ask: Ask, loaded_at: float, timings: Timings, context: list[int]) -> Line:
        """Return the last line of an answer, with its durations in nanoseconds."""
        total = asyncio.get_running_loop().time() - ask.arrived
        return self.line(
            ask,
            done=True,
            done_reason="stop" if timings.stopped else "length",
            context=None if ask.raw else context,
            total_duration=round(total * SECOND),
            load_duration=round((loaded_at - ask.arrived) * SECOND),
            prompt_eval_count=timings.prompt_tokens,
            prompt_eval_duration=round(timings.prefill_seconds * SECOND),
            eval_count=timings.tokens,
            eval_duration=max(1000, round(timings.decode_seconds * SECOND)),
        )

    async def _acquire(self, model: Model, options: Mapping[str, Any]) -> Runner:
        context_length = min(options.get("num_ctx") or self.default_context_length, model.context_length)
        kept = {key: options[key] for key in RELOADING if options.get(key) is not None}
        async with self._locks[model.full_name]:
            await self.loaded()
            runner = self._runners.get(model.full_name)
            if runner and self.stale(runner, context_length, kept):
                while runner.users:
                    await self._freed.wait()
                await self._drop(runner)
                runner = None
            if runner is None:
                await self._make_room()
                handle = await self.load(model, context_length)
                self.loads += 1
                runner = self._runners[model.full_name] = Runner(
                    model=model,
                    context_length=context_length,
                    options=kept,
                    slots=asyncio.Semaphore(self.num_parallel),
                    loaded_at=asyncio.get_running_loop().time(),
                    handle=handle,
                    keep_alive_ns=self.default_keep_alive_ns,
                )
            return runner

    async def _make_room(self) -> None:
        while self.max_loaded_models is not None and len(self._runners) >= self.max_loaded_models:
            idle = [runner for runner in self._runners.values() if not runner.users]
            if idle:
                await self._drop(min(idle, key=lambda runner: runner.expires_ns or 0))
            else:
                await self._freed.wait()

    async def _drop(self, runner: Runner) -> None:
        if self._runners.get(runner.model.full_name) is runner:
            del self._runners[runner.model.full_name]
        await asyncio.shield(self.unload(runner))
