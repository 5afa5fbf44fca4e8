"""Slots: how many probes may load this machine at the same time.

What disturbs the measurement of a probe is the work for others: handling the chunks of their answers. A server that
does not answer causes none. So a probe holds its slot from its start, but gives it back while nothing of its answer
arrives for `WAIT_SECONDS`, and takes it again with the next chunk. That is simpler than a second limit or a queue for
slow servers, it needs no knowledge of why a server is slow (hung, loading a model, queueing or stalled), and hung
servers cost the others at most `WAIT_SECONDS` each. A probe that takes its slot again does not wait, since its answer
is being measured: the limit may then be exceeded, and no other probe starts until it holds again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable

WAIT_SECONDS = 5.0
"""Longer than a loaded model needs for its first token, and than its pauses between two tokens."""
LOOK_SECONDS = 1.0
"""Interval of the checks for arrived chunks. A call per chunk would disturb the measurement."""


class Slots:
    """A limited number of slots. Waiting probes get one in the order of their requests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        """Whether a probe has to wait for a slot."""
        return self._used >= self._limit

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[Slot]:
        """Wait for a slot, and hold it in the block."""
        await self._acquire()
        slot = Slot(self)
        try:
            yield slot
        finally:
            slot.end()

    def take(self) -> None:
        """Take a slot, even if that exceeds the limit."""
        self._used += 1

    def give_back(self) -> None:
        """Return a slot. The first waiting probe gets it if the limit allows it."""
        self._used -= 1
        while self._waiting and not self.full:
            self._used += 1
            future = self._waiting.popleft()
            if not future.done():  # or else it was cancelled, and gives back the slot itself
                future.set_result(None)

    async def _acquire(self) -> None:
        if not self.full:
            self._used += 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in self._waiting:
                self._waiting.remove(future)
            else:  # the slot was given at the same time
                self.give_back()
            raise


class Slot:
    """The slot of one probe."""

    def __init__(self, slots: Slots) -> None:
        self.count_chunks: Callable[[], int] = lambda: 0
        """Returns how many chunks of the answer have arrived; set by the probe once it knows."""
        self._slots = slots
        self._held = True
        self._chunks = 0
        self._idle_looks = 0
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def end(self) -> None:
        """Return the slot permanently."""
        self._timer.cancel()
        if self._held:
            self._slots.give_back()

    def _look(self) -> None:
        chunks = self.count_chunks()
        self._idle_looks = self._idle_looks + 1 if chunks == self._chunks else 0
        self._chunks = chunks
        if self._held and self._idle_looks * LOOK_SECONDS >= WAIT_SECONDS:
            self._held = False
            self._slots.give_back()
        elif not self._held and not self._idle_looks:
            self._held = True
            self._slots.take()
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
