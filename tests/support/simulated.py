"""An event loop whose time is simulated: it jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import time_machine


class _Jumping(selectors.SelectSelector):
    """A selector that returns at once and records how long it would have waited."""

    waited_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.waited_seconds = timeout
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop for code without sockets or threads. The wall clock advances with it, and can be stepped against it."""

    def __init__(self, traveller: Any) -> None:
        self._now = 1000.0
        self._traveller = traveller
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the simulated monotonic time."""
        return self._now

    def step_wall_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back, while no time passes."""
        self._traveller.shift(seconds)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]  # a private method of asyncio, stable since 3.4
        if self._jumping.waited_seconds:
            self._now += self._jumping.waited_seconds
            self._traveller.shift(self._jumping.waited_seconds)
            self._jumping.waited_seconds = 0.0


def run_simulated(work: Any) -> Any:
    """Run `await work(loop)` in simulated time, which starts in 2026, and return its result."""
    with time_machine.travel("2026-01-01T00:00:00+00:00", tick=False) as traveller:
        loop = SimulatedLoop(traveller)
        coroutine: Coroutine[Any, Any, Any] = work(loop)
        try:
            return loop.run_until_complete(asyncio.wait_for(coroutine, None))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
