"""Turns: which probe may run now. One at a time per target, and a limited number in all.

Fairness: a probe whose server does not answer gives its slot back to the others, see `exporter.probing.slots`. It keeps
the turn of its target, whose other models would wait for the same server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from weakref import WeakValueDictionary

from exporter.errors import SkipReason
from exporter.logs import get_logger
from exporter.plan import ModelKey
from exporter.probing.slots import Slot, Slots

log = get_logger(__name__)


class ProbeTurns:
    """Runs each probe in its own task, when its turn comes.

    Probes of one target run one at a time, in the order in which they were started. At most `max_concurrent_probes` run
    at the same time, not counting those that wait for an answer.
    """

    def __init__(self, probe: Callable[[ModelKey, Slot], Awaitable[None]], max_concurrent_probes: int) -> None:
        self._probe = probe
        self._slots = Slots(max_concurrent_probes)
        self._target_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: dict[ModelKey, asyncio.Task[None]] = {}
        self._running: set[ModelKey] = set()
        self._delayed: set[ModelKey] = set()
        """Models whose running probe had to wait, until they are due again."""

    def start(self, key: ModelKey) -> SkipReason | None:
        """Start a due probe, which may wait for its turn, or return why not if the previous one has not ended.

        That is `overlap` if the previous probe has been running for an interval or longer, and `late` if it is still
        waiting for its turn or started late.
        """
        if key in self._delayed:
            self._delayed.remove(key)
            return SkipReason.LATE
        if key in self._running:
            return SkipReason.OVERLAP
        if key in self._tasks:
            return SkipReason.LATE
        task = asyncio.create_task(self._run(key), name=f"probe {key.model} on {key.target}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key))
        return None

    async def cancel(self, keys: Iterable[ModelKey]) -> None:
        """Cancel the probes of these models, running or waiting. All have ended when this returns."""
        tasks = [self._tasks[key] for key in keys if key in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def cancel_all(self) -> None:
        """Cancel all probes. All have ended when this returns."""
        await self.cancel(list(self._tasks))

    async def _run(self, key: ModelKey) -> None:
        # Every task that waits holds a reference to its target's lock, so an unused lock is dropped.
        target_lock = self._target_locks.setdefault(key.target, asyncio.Lock())
        must_wait = target_lock.locked() or self._slots.full
        async with target_lock, self._slots.hold() as slot:
            self._running.add(key)
            if must_wait:
                self._delayed.add(key)
            try:
                await self._probe(key, slot)
            except Exception:
                log.exception("unhandled error in probe", **key._asdict())
            finally:
                self._running.discard(key)
                self._delayed.discard(key)
