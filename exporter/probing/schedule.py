"""When each model is due: APScheduler's AsyncIOScheduler with due times on the monotonic clock.

APScheduler 3.11 schedules by wall clock. With `misfire_grace_time=None` it reports no missed runs; an interval job
stops firing when the clock is set back, and enumerates every missed run when it is set forward. So the due times are
computed on the event loop's monotonic clock here, the jobs are rescheduled when the wall clock was stepped, and missed
due times are counted as skipped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from exporter.errors import SkipReason
from exporter.logs import get_logger
from exporter.plan import ModelKey
from exporter.probing.turns import ProbeTurns

CLOCK_CHECK_SECONDS = 5.0
CLOCK_STEP_SECONDS = 1.0
"""A wall clock that moved this far against the monotonic one was stepped, or the machine was suspended."""

log = get_logger(__name__)


class MonotonicIntervalTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 is untyped
    """Due times every `interval_seconds` from `due_at` on, in seconds of the monotonic `clock`.

    `first_at`, if given, is an additional due time before these.
    """

    def __init__(
        self, due_at: float, interval_seconds: float, clock: Callable[[], float], first_at: float | None = None
    ) -> None:
        self.interval_seconds = interval_seconds
        self._due_at = due_at
        self._first_at = first_at
        self._clock = clock
        # A timer may fire slightly early, and the wall clock drifts: a due time this near counts as reached.
        self._tolerance_seconds = min(0.5, interval_seconds / 4)
        self._taken = 0

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the next due time by the wall clock.

        A job that was just added or rescheduled has no previous fire time; it is due now if it missed its due time.
        """
        reached = self._reached()
        if previous_fire_time is None and reached > self._taken:
            return now
        return now + timedelta(seconds=max(self._at(reached) - self._clock(), 0.0))

    def take(self) -> int | None:
        """Take the latest due time and return how many before it were missed, or None if none is due."""
        reached = self._reached()
        if reached <= self._taken:
            return None
        missed = reached - self._taken - 1
        self._taken = reached
        return missed

    def _reached(self) -> int:
        """Return how many due times have been reached."""
        now = self._clock() + self._tolerance_seconds
        if self._first_at is not None and now < self._first_at:
            return 0
        passed = math.floor((now - self._due_at) / self.interval_seconds) + 1
        return max(passed, 0) + (self._first_at is not None)

    def _at(self, index: int) -> float:
        """Return the due time of this index."""
        if self._first_at is None:
            return self._due_at + index * self.interval_seconds
        return self._first_at if index == 0 else self._due_at + (index - 1) * self.interval_seconds


class Schedule:
    """Starts a probe of each model at its due times.

    `on_skipped` is called with the due times at which none was started: `overlap` if the previous probe took longer
    than the interval, `late` if it had to wait for its turn, if the event loop was blocked or the machine suspended.
    """

    def __init__(self, turns: ProbeTurns, on_skipped: Callable[[ModelKey, SkipReason, int], None]) -> None:
        self._turns = turns
        self._on_skipped = on_skipped
        self._triggers: dict[ModelKey, MonotonicIntervalTrigger] = {}
        self._loop = asyncio.get_running_loop()
        self._clock_checks: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )

    def start(self) -> None:
        """Start the scheduler."""
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # missed runs are counted here
        self._scheduler.start()
        self._clock_checks = self._loop.create_task(self._follow_wall_clock(), name="follow wall clock")

    def add(
        self, key: ModelKey, interval_seconds: float, due_in_seconds: float, first_in_seconds: float | None = None
    ) -> None:
        """Probe a model every `interval_seconds`, from `due_in_seconds` on.

        If `first_in_seconds` is given, it is also probed then, before that. A model that is scheduled already gets new
        due times; its probe goes on.
        """
        now = self._loop.time()
        first_at = None if first_in_seconds is None else now + first_in_seconds
        trigger = MonotonicIntervalTrigger(now + due_in_seconds, interval_seconds, self._loop.time, first_at)
        self._triggers[key] = trigger
        name = repr(key)
        self._scheduler.add_job(self._start_due, trigger, args=(key,), id=name, name=name, replace_existing=True)

    def interval_seconds(self, key: ModelKey) -> float | None:
        """Return a model's interval, None if it is not scheduled."""
        trigger = self._triggers.get(key)
        return trigger.interval_seconds if trigger else None

    async def remove(self, keys: Iterable[ModelKey]) -> None:
        """Stop probing these models. Their running probes are cancelled and have ended when this returns."""
        removed = list(keys)
        for key in removed:
            if self._triggers.pop(key, None) is not None:
                self._scheduler.remove_job(repr(key))
        await self._turns.cancel(removed)

    async def stop(self) -> None:
        """Stop probing. All running probes are cancelled and have ended when this returns."""
        if self._clock_checks is not None:
            self._clock_checks.cancel()
            await asyncio.gather(self._clock_checks, return_exceptions=True)
        self._triggers.clear()
        if self._scheduler.running:
            self._scheduler.pause()
            self._scheduler.remove_all_jobs()
            self._scheduler.shutdown(wait=False)
        await self._turns.cancel_all()

    async def _start_due(self, key: ModelKey) -> None:
        """Start a probe that is due. This is APScheduler's job; it ends immediately: the probe has its own task."""
        trigger = self._triggers.get(key)
        missed = trigger.take() if trigger is not None else None
        if missed is None:  # removed since the job was submitted, or the wall clock runs ahead
            return
        if missed:
            self._on_skipped(key, SkipReason.LATE, missed)
        if reason := self._turns.start(key):
            self._on_skipped(key, reason, 1)

    async def _follow_wall_clock(self) -> None:
        """Reschedule the jobs whenever the wall clock was stepped."""
        offset = time.time() - self._loop.time()
        while True:
            await asyncio.sleep(CLOCK_CHECK_SECONDS)
            step = time.time() - self._loop.time() - offset
            if abs(step) < CLOCK_STEP_SECONDS:
                continue
            offset += step
            log.info("wall clock stepped", step_seconds=round(step, 1))
            for key, trigger in self._triggers.items():
                self._scheduler.reschedule_job(repr(key), trigger=trigger)
