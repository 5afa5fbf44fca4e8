"""Every way in which the scripted engine can go wrong, on cue."""

from __future__ import annotations

import asyncio
import math
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """What happens. Where `factor` or `text` counts, the value in brackets is what None stands for."""

    SLOW = "slow"
    """Prefill and decode at `factor` (1/3) of the pace."""
    CPU = "cpu"
    """The model is on the CPU: `size_vram` 0, 3 % of the pace."""
    CPU_HIDDEN = "cpu_hidden"
    """The same, while `/api/ps` goes on claiming the GPU."""
    PARTIAL_OFFLOAD = "partial_offload"
    """`factor` (0.72) of the model on the GPU, the rest at 3 % of the pace."""
    COLD = "cold"
    """The model is unloaded whenever nobody uses it."""
    LOAD_FOREVER = "load_forever"
    """Loading does not end while the fault lasts."""
    BUSY = "busy"
    """Somebody else takes a slot, and holds it for `seconds`."""
    STALL_BEFORE_FIRST_TOKEN = "stall_before_first_token"  # noqa: S105 - no password
    """No answer, not even headers, while the fault lasts; with `path` set, of that path."""
    STALL_IN_THE_MIDDLE = "stall_in_the_middle"
    """Nothing more while the fault lasts, after one token at least."""
    CUT = "cut"
    """The connection is reset."""
    HALF_CLOSED = "half_closed"
    """The server closes its side in the middle of the body and keeps the socket."""
    NO_DONE = "no_done"
    """The stream ends cleanly without its final line: Ollama's repeat abort."""
    DONE_TWICE = "done_twice"
    JUNK_LINE = "junk_line"
    """A line that is no JSON: `text` (a proxy's HTML)."""
    ERROR_LINE = "error_line"
    """HTTP 200, then a line with an error: `text` (the runner died)."""
    DEAD_MODEL = "dead_model"
    """The runner dies: running requests get an error, `/api/ps` goes on listing it, the next request reloads it."""
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
    """The model runs on somebody else's computers."""
    TRICKLE = "trickle"
    """A byte every `factor` (1) seconds."""
    LONG_LINE = "long_line"
    """One line of `factor` (100,000,000) bytes."""
    ENDLESS_HEADERS = "endless_headers"
    """The headers never end: one of 64 bytes every `factor` (0.01) seconds."""
    ZERO_DURATIONS = "zero_durations"
    NO_DURATIONS = "no_durations"
    """The durations are left out, which is how Ollama spells 0."""
    NEGATIVE_DURATIONS = "negative_durations"
    ABSURD_DURATIONS = "absurd_durations"
    """292 years each."""
    UNKNOWN_DONE_REASON = "unknown_done_reason"
    """`text` ("tired")."""


LASTING = {FaultKind.SLOW, FaultKind.CPU, FaultKind.CPU_HIDDEN, FaultKind.PARTIAL_OFFLOAD, FaultKind.DEAD_MODEL}
"""What goes on once it has begun; everything else befalls each request anew at its `after_tokens`-th token."""


@dataclass(eq=False, slots=True)
class Fault:
    """One fault: from `after_seconds` after it is played, in each request from its `after_tokens`-th token on."""

    kind: FaultKind
    model: str | None = None
    """None is every model."""
    _: KW_ONLY
    after_seconds: float = 0
    after_tokens: int = 0
    seconds: float | None = None
    """How long it lasts from its first effect, None until `end`."""
    times: int | None = None
    """How many requests it befalls at most (what fails or distorts one answer), None without limit."""
    factor: float | None = None
    text: str | None = None
    path: str | None = None
    """Of the faults that befall any request, whatever its model: the path. None is `/api/generate` for SERVER_BUSY,
    ENDLESS_HEADERS and STALL_BEFORE_FIRST_TOKEN, every path for UNAUTHORIZED and FORBIDDEN."""
    starts: float = field(default=0, init=False)
    """By the loop's clock, set when played."""
    began: float | None = field(default=None, init=False)
    """When it first acted."""
    over: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    task: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.kind in {FaultKind.SERVER_BUSY, FaultKind.ENDLESS_HEADERS} and self.path is None:
            self.path = "/api/generate"

    def value(self, default: float) -> float:
        """Return `factor`, or what None stands for."""
        return default if self.factor is None else self.factor

    def acts(self, now: float, tokens: int | None) -> bool:
        """Whether it acts now, on a request that has produced `tokens` (None: not on a request)."""
        if self.over.is_set() or self.times == 0 or not self.starts <= now < self.ends:
            return False
        going_on = self.began is not None and (tokens is None or self.kind in LASTING)
        if not going_on and (tokens or 0) < self.after_tokens:
            return False
        if self.began is None:
            self.began = now if self.after_tokens else self.starts
        return True

    @property
    def ends(self) -> float:
        """When it is over by itself, by the loop's clock."""
        began = self.began if self.after_tokens else self.starts
        return math.inf if self.seconds is None or began is None else began + self.seconds

    async def until_over(self) -> None:
        """Wait for its end."""
        try:
            async with asyncio.timeout_at(None if self.ends == math.inf else self.ends):
                await self.over.wait()
        except TimeoutError:
            pass

    def end(self) -> None:
        """End it now."""
        self.over.set()
        if self.task:
            self.task.cancel()
