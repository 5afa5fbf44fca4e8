"""Work in its own thread, with a bounded queue. Callers that request the same work share one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor


class BusyError(Exception):
    """Too much work waits already."""


class SharedWork:
    """Runs functions in one thread, one after the other. Callers with equal keys share one run.

    One thread, because Python runs one at a time anyway, and because each further one delays the event loop.
    """

    def __init__(self, name: str, waiting_max: int) -> None:
        """Create the thread with its first work. At most `waiting_max` different keys wait or run at a time."""
        self._executor = ThreadPoolExecutor(1, name)
        self._waiting_max = waiting_max
        self._running: dict[Hashable, asyncio.Future[bytes]] = {}

    async def run(self, key: Hashable, function: Callable[[], bytes]) -> bytes:
        """Return what `function` returns, or the result of a call with this key that has not ended yet.

        Raises BusyError if too many others wait.
        """
        future = self._running.get(key)
        if future is None:
            if len(self._running) >= self._waiting_max:
                raise BusyError
            future = asyncio.get_running_loop().run_in_executor(self._executor, function)
            self._running[key] = future
            future.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(future)

    def close(self) -> None:
        """End the thread without waiting for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)
