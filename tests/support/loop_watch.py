"""The longest time for which the event loop runs one task without a pause for others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import perf_counter

_TICK_SECONDS = 0.005


class LoopWatch:
    """What a ticking task saw."""

    longest_block_seconds = 0.0

    async def tick(self) -> None:
        """Measure until cancelled."""
        while True:
            started_at = perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            block = perf_counter() - started_at - _TICK_SECONDS
            self.longest_block_seconds = max(self.longest_block_seconds, block)


@contextlib.asynccontextmanager
async def watching_the_loop() -> AsyncIterator[LoopWatch]:
    """Yield the watch that measures while the block runs."""
    watch = LoopWatch()
    task = asyncio.create_task(watch.tick())
    await asyncio.sleep(0)
    try:
        yield watch
        await asyncio.sleep(2 * _TICK_SECONDS)
    finally:
        task.cancel()
