"""When each pair is probed: APScheduler's AsyncIOScheduler, with its traps closed.

APScheduler schedules by wall clock and misses runs silently (3.11: `misfire_grace_time=None` emits no MISSED; an
interval job starves when the clock is set back, and enumerates every missed run when it is set forward). So the marks
of a pair stand on the monotonic clock here: the trigger only says how far off the next one is, a watch re-adds the
jobs when the wall clock was stepped, and marks that passed unrun are counted as skipped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from exporter.errors import SkipReason
from exporter.plan import ModelKey

CLOCK_CHECK_SECONDS = 5.0
CLOCK_STEP_SECONDS = 1.0
"""A wall clock that moved this far against the monotonic one was stepped, or the machine slept."""

log = logging.getLogger(__name__)
logging.getLogger("apscheduler").setLevel(logging.ERROR)  # what it would say of overlapping runs is counted here


class MonotonicIntervalTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 is untyped
    """The times at which a pair is due: every `interval_seconds` from `first_at`, on the event loop's clock."""

    def __init__(self, first_at: float, interval_seconds: float, clock: Callable[[], float]) -> None:
        self._first_at = first_at
        self._interval_seconds = interval_seconds
        self._clock = clock
        # A timer may fire a moment early, and the wall clock drifts: a mark so near has come.
        self._tolerance_seconds = min(0.5, interval_seconds / 4)
        self._taken = -1

    def _reached(self) -> int:
        """Return the index of the newest mark that has come, -1 before the first."""
        passed = (self._clock() - self._first_at + self._tolerance_seconds) / self._interval_seconds
        return max(math.floor(passed), -1)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the wall-clock time of the next mark, as far off as it is on the monotonic clock.

        Asked anew (no previous time), a mark that has come untaken is due now. Asked on, it has just been run.
        """
        reached = self._reached()
        if previous_fire_time is None and reached > self._taken:
            return now
        mark = self._first_at + (reached + 1) * self._interval_seconds
        return now + timedelta(seconds=max(mark - self._clock(), 0.0))

    def take(self) -> int | None:
        """Take the mark that has come and return how many before it passed unrun; None when none is due."""
        reached = self._reached()
        if reached <= self._taken:
            return None
        passed = reached - self._taken - 1
        self._taken = reached
        return passed


class Schedule:
    """Runs `probe` for each pair at its marks: one at a time per target, and on so many targets at once at most.

    `skipped` is told of marks that passed unrun: `overlap` where the former run had not ended, `late` where the program
    could not come to it in time.
    """

    def __init__(
        self,
        probe: Callable[[ModelKey], Awaitable[None]],
        skipped: Callable[[ModelKey, SkipReason, int], None],
        max_concurrent_probes: int,
    ) -> None:
        self._probe = probe
        self._skipped = skipped
        self._turns = asyncio.Semaphore(max_concurrent_probes)
        self._target_turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._marks: dict[str, tuple[ModelKey, MonotonicIntervalTrigger]] = {}
        self._tasks: dict[ModelKey, asyncio.Task[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self._clock_watch: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        self._scheduler.add_listener(self._overlapped, EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Begin to fire."""
        self._scheduler.start()
        self._clock_watch = self._loop.create_task(self._watch_clock(), name="clock watch")

    def add(self, pair: ModelKey, interval_seconds: float, first_in_seconds: float) -> None:
        """Probe a pair every `interval_seconds`, for the first time after `first_in_seconds`."""
        marks = MonotonicIntervalTrigger(self._loop.time() + first_in_seconds, interval_seconds, self._loop.time)
        key = repr(pair)
        self._marks[key] = (pair, marks)
        self._scheduler.add_job(self._run, marks, args=(pair, marks), id=key, name=key)

    async def remove(self, pair: ModelKey) -> None:
        """Stop probing a pair; a probe in flight is cancelled and has ended when this returns."""
        key = repr(pair)
        if self._marks.pop(key, None) is not None:
            self._scheduler.remove_job(key)
        await self._cancel([self._tasks[pair]] if pair in self._tasks else [])

    async def stop(self) -> None:
        """Fire no more and cancel every probe in flight; all have ended when this returns."""
        if self._clock_watch is not None:
            await self._cancel([self._clock_watch])
        if self._scheduler.running:
            self._scheduler.pause()
            self._scheduler.remove_all_jobs()
            self._scheduler.shutdown(wait=False)
        await self._cancel(list(self._tasks.values()))

    @staticmethod
    async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, pair: ModelKey, marks: MonotonicIntervalTrigger) -> None:
        """Wait for a turn and probe. APScheduler swallows what a job raises, so nothing is left to it."""
        passed = marks.take()
        if passed is None:  # the wall clock ran ahead: the mark is yet to come
            return
        if passed:
            self._skipped(pair, SkipReason.LATE, passed)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a job is a task
        self._tasks[pair] = task
        try:
            async with self._target_turns[pair.target], self._turns:
                await self._probe(pair)
        except asyncio.CancelledError:
            return  # told by the probe itself; APScheduler would log it as an error
        except Exception:
            log.exception("a run ended with an error that nobody expected", extra={"fields": pair._asdict()})
        finally:
            self._tasks.pop(pair, None)

    def _overlapped(self, event: JobSubmissionEvent) -> None:
        pair, marks = self._marks.get(event.job_id, (None, None))
        passed = marks.take() if marks is not None else None
        if pair is None or passed is None:
            return
        self._skipped(pair, SkipReason.OVERLAP, 1 + passed)

    async def _watch_clock(self) -> None:
        """Re-add the jobs whenever the wall clock was stepped."""
        ahead = time.time() - self._loop.time()
        while True:
            await asyncio.sleep(CLOCK_CHECK_SECONDS)
            step = time.time() - self._loop.time() - ahead
            if abs(step) < CLOCK_STEP_SECONDS:
                continue
            ahead += step
            log.info("the clock was stepped", extra={"fields": {"step_seconds": round(step, 1)}})
            for key, (_, marks) in self._marks.items():
                self._scheduler.reschedule_job(key, trigger=marks)
