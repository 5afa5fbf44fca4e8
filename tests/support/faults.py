"""The faults that a FaultyEngine can inject, and when each of them is active."""

from __future__ import annotations

import asyncio
import math
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """What happens. Where `factor` or `text` counts, the value in brackets is the default that None stands for."""

    SLOW = "slow"
    """Prefill and decode at `factor` (1/3) of the rate."""
    CPU = "cpu"
    """The model is on the CPU: `size_vram` 0, 3 % of the rate."""
    CPU_HIDDEN = "cpu_hidden"
    """The same, while `/api/ps` still reports the GPU."""
    PARTIAL_OFFLOAD = "partial_offload"
    """`factor` (0.72) of the model on the GPU, the rest at 3 % of the rate."""
    COLD = "cold"
    """The model is unloaded whenever it is idle."""
    LOAD_FOREVER = "load_forever"
    """Loading does not end while the fault lasts."""
    BUSY = "busy"
    """Another client takes a slot and holds it for `seconds`."""
    STALL_BEFORE_FIRST_TOKEN = "stall_before_first_token"
    """No answer, not even headers, while the fault lasts; with `path`, on that path."""
    STALL_IN_THE_MIDDLE = "stall_in_the_middle"
    """No further token while the fault lasts, after at least one."""
    CUT = "cut"
    """The connection is reset."""
    HALF_CLOSED = "half_closed"
    """The server closes its sending side in the middle of the body and keeps the socket."""
    NO_DONE = "no_done"
    """The stream ends cleanly without its final line, as when Ollama aborts a repeating answer."""
    DONE_TWICE = "done_twice"
    JUNK_LINE = "junk_line"
    """A line that is not JSON: `text` (a proxy's HTML)."""
    ERROR_LINE = "error_line"
    """HTTP 200, then a line with an error: `text` (the runner died)."""
    DEAD_MODEL = "dead_model"
    """The runner dies: running requests get an error, `/api/ps` still lists it, the next request reloads it."""
    OUT_OF_MEMORY = "out_of_memory"
    """500 with `text` (cudaMalloc failed): when loading, before the first token, or as a line after some."""
    UNAUTHORIZED = "unauthorized"
    """401 on every path."""
    FORBIDDEN = "forbidden"
    """403 with an empty body on every path, as Ollama answers a foreign Host."""
    SERVER_BUSY = "server_busy"
    """503: the scheduler's queue is full."""
    THINKING = "thinking"
    """The model thinks for `factor` (0.5) of its tokens, whatever `think` says."""
    EMBEDDING_ONLY = "embedding_only"
    CLOUD = "cloud"
    """The model runs on a cloud service."""
    TRICKLE = "trickle"
    """A byte every `factor` (1) seconds."""
    LONG_LINE = "long_line"
    """One line of `factor` (100,000,000) bytes."""
    ENDLESS_HEADERS = "endless_headers"
    """The headers never end: one of 64 bytes every `factor` (0.01) seconds."""
    ZERO_DURATIONS = "zero_durations"
    NO_DURATIONS = "no_durations"
    """The durations are left out, as Ollama does with 0."""
    NEGATIVE_DURATIONS = "negative_durations"
    ABSURD_DURATIONS = "absurd_durations"
    """292 years each."""
    UNKNOWN_DONE_REASON = "unknown_done_reason"
    """`text` ("unlisted")."""


LASTING = {FaultKind.SLOW, FaultKind.CPU, FaultKind.CPU_HIDDEN, FaultKind.PARTIAL_OFFLOAD, FaultKind.DEAD_MODEL}
"""The kinds that stay active once they have begun; all others apply to each request at its `after_tokens`-th token."""


@dataclass(eq=False, slots=True)
class Fault:
    """One fault: from `after_seconds` after its injection, in each request from its `after_tokens`-th token on."""

    kind: FaultKind
    model: str | None = None
    """None is every model."""
    _: KW_ONLY
    after_seconds: float = 0
    after_tokens: int = 0
    seconds: float | None = None
    """How long it lasts from its first effect, None until `end`."""
    times: int | None = None
    """How many more requests it applies to (kinds that fail or distort one answer), None without limit."""
    factor: float | None = None
    text: str | None = None
    path: str | None = None
    """Of the kinds that apply to a request whatever its model: the path. None is `/api/generate` for SERVER_BUSY,
    ENDLESS_HEADERS and STALL_BEFORE_FIRST_TOKEN, every path for UNAUTHORIZED and FORBIDDEN."""
    starts_at: float = field(default=0, init=False)
    """By the loop's clock, set by the injection."""
    began_at: float | None = field(default=None, init=False)
    """When it was first active."""
    ended: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    task: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.kind in {FaultKind.SERVER_BUSY, FaultKind.ENDLESS_HEADERS} and self.path is None:
            self.path = "/api/generate"

    def value(self, default: float) -> float:
        """Return `factor`, or the default where it is None."""
        return default if self.factor is None else self.factor

    def is_active(self, now: float, tokens: int | None) -> bool:
        """Return whether it is active now, for a request that has generated `tokens` (None: outside of one)."""
        if self.ended.is_set() or self.times == 0 or not self.starts_at <= now < self.ends_at:
            return False
        continues = self.began_at is not None and (tokens is None or self.kind in LASTING)
        if not continues and (tokens or 0) < self.after_tokens:
            return False
        if self.began_at is None:
            self.began_at = now if self.after_tokens else self.starts_at
        return True

    @property
    def ends_at(self) -> float:
        """When its `seconds` are over, by the loop's clock."""
        began_at = self.began_at if self.after_tokens else self.starts_at
        return math.inf if self.seconds is None or began_at is None else began_at + self.seconds

    async def wait(self) -> None:
        """Wait until it ends."""
        try:
            async with asyncio.timeout_at(None if self.ends_at == math.inf else self.ends_at):
                await self.ended.wait()
        except TimeoutError:
            pass

    def count(self) -> None:
        """Count one request to which it was applied."""
        if self.times:
            self.times -= 1

    def end(self) -> None:
        """End it now."""
        self.ended.set()
        if self.task:
            self.task.cancel()
