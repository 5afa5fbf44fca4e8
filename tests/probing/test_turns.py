"""When pairs are probed, in simulated time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest
from support.simulated import SimulatedLoop, run_simulated

from exporter.plan import ModelKey
from exporter.probing.schedule import Schedule
from exporter.reading import SkipReason

A, B, C = ModelKey("one", "a"), ModelKey("one", "b"), ModelKey("two", "c")
MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass
class Log:
    """What was probed when (seconds since the start), and what was skipped."""

    loop: SimulatedLoop
    began: float = field(init=False)
    runs: list[tuple[float, ModelKey]] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    skips: Counter[SkipReason] = field(default_factory=Counter)
    cancelled: list[ModelKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.loop.time()

    def skipped(self, _: ModelKey, reason: SkipReason, count: int) -> None:
        """Note a skip."""
        self.skips[reason] += count

    def prober(self, seconds: float | Callable[[float], float]) -> Callable[[ModelKey], Awaitable[None]]:
        """Return a probe that takes so long."""

        async def probe(pair: ModelKey) -> None:
            assert not self.running[pair.target], "two probes of one target at once"
            self.running[pair.target] += 1
            self.most_at_once = max(self.most_at_once, sum(self.running.values()))
            now = self.loop.time() - self.began
            self.runs.append((now, pair))
            try:
                await asyncio.sleep(seconds(now) if callable(seconds) else seconds)
            except asyncio.CancelledError:
                self.cancelled.append(pair)
                raise
            finally:
                self.running[pair.target] -= 1

        return probe

    def times(self, pair: ModelKey) -> list[float]:
        """Return when a pair was probed."""
        return [when for when, probed in self.runs if probed == pair]


def simulate(
    pairs: Mapping[ModelKey, tuple[float, float]],
    seconds: float,
    probe_seconds: float | Callable[[float], float] = 2,
    limit: int = 4,
    meanwhile: Callable[[SimulatedLoop, Schedule], Awaitable[None]] | None = None,
) -> Log:
    """Run a schedule of pairs, each with its interval and first delay, up to a second before `seconds`."""

    async def work(loop: SimulatedLoop) -> Log:
        log = Log(loop)
        schedule = Schedule(log.prober(probe_seconds), log.skipped, limit)
        schedule.start()
        for pair, (interval, first) in pairs.items():
            schedule.add(pair, interval, first)
        other = asyncio.ensure_future(meanwhile(loop, schedule)) if meanwhile else None
        await asyncio.sleep(seconds - 1)
        if other:
            await other
        await schedule.stop()
        return log

    result: Log = run_simulated(work)
    return result


def test_each_pair_is_probed_at_its_marks() -> None:
    """The first run comes after its delay, every other an interval later, without drift over a day."""
    log = simulate({A: (MINUTE, 0), C: (15 * MINUTE, 5)}, DAY)

    assert log.times(A) == pytest.approx([index * MINUTE for index in range(DAY // MINUTE)], abs=1)
    assert log.times(C) == pytest.approx([5 + index * 15 * MINUTE for index in range(DAY // (15 * MINUTE))], abs=1)
    assert not log.skips


def test_a_target_is_probed_by_one_at_a_time() -> None:
    """Two models of one target due at once take turns (the probe itself asserts it), and neither is skipped."""
    log = simulate({A: (MINUTE, 0), B: (MINUTE, 0)}, HOUR, probe_seconds=10)

    assert len(log.times(A)) == len(log.times(B)) == 60
    assert not log.skips


def test_no_more_targets_than_allowed_are_probed_at_once() -> None:
    """Ten targets due at once with a limit of three: never more than three run, and all get their turn."""
    pairs = {ModelKey(f"t{index}", "m"): (MINUTE, 0.0) for index in range(10)}

    log = simulate(pairs, 10 * MINUTE, probe_seconds=5, limit=3)

    assert log.most_at_once == 3
    assert {len(log.times(pair)) for pair in pairs} == {10}


def test_a_run_that_outlasts_its_interval_counts_as_overlap() -> None:
    """Due times that come while the former run is still going are skipped, counted, and never run twice."""
    log = simulate({A: (MINUTE, 0)}, HOUR, probe_seconds=150)

    assert len(log.times(A)) == 20
    assert log.skips == {SkipReason.OVERLAP: 40}


def test_marks_that_passed_while_the_loop_was_held_up_count_as_late() -> None:
    """After a hold-up of more than three intervals there is one run, and the marks passed over are counted."""

    async def hold_up(loop: SimulatedLoop, _: Schedule) -> None:
        await asyncio.sleep(10 * MINUTE + 30)
        loop._now += 3.4 * MINUTE
        loop.step_wall_clock(3.4 * MINUTE)

    log = simulate({A: (MINUTE, 0)}, 30 * MINUTE, meanwhile=hold_up)

    assert log.skips == {SkipReason.LATE: 2}
    assert len(log.times(A)) == 30 - 2


@pytest.mark.parametrize("step", [-HOUR, HOUR, DAY, -DAY, 0.7])
def test_a_stepped_wall_clock_neither_storms_nor_starves(step: float) -> None:
    """Whatever the wall clock does (set back, set forward, a suspended laptop), the pair is due once an interval."""

    async def turn(loop: SimulatedLoop, _: Schedule) -> None:
        await asyncio.sleep(10 * MINUTE + 30)
        loop.step_wall_clock(step)

    log = simulate({A: (MINUTE, 0), C: (15 * MINUTE, 5)}, HOUR, meanwhile=turn)

    assert log.times(A) == pytest.approx([index * MINUTE for index in range(60)], abs=6)
    assert log.times(C) == pytest.approx([5, 905, 1805, 2705], abs=6)
    assert not log.skips


def test_a_removed_pair_is_cancelled_and_never_probed_again() -> None:
    """Removal ends the probe in flight before it returns; others go on."""

    async def remove(_: SimulatedLoop, schedule: Schedule) -> None:
        await asyncio.sleep(5 * MINUTE + 1)
        await schedule.remove(A)

    log = simulate({A: (MINUTE, 0), C: (MINUTE, 0)}, HOUR, probe_seconds=5, meanwhile=remove)

    assert log.cancelled == [A]
    assert len(log.times(A)) == 6
    assert len(log.times(C)) == 60


def test_stopping_cancels_what_runs_and_what_waits() -> None:
    """A probe in flight is cancelled; one that waits for its turn has not run, so it is not told of."""
    log = simulate({A: (HOUR, 0), B: (HOUR, 0)}, 10, probe_seconds=100)

    assert log.cancelled == [A]
    assert log.times(B) == []


def test_an_error_that_nobody_expected_does_not_end_the_schedule(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, and the next mark is run."""

    async def work(_: SimulatedLoop) -> int:
        runs = 0

        async def probe(_: ModelKey) -> None:
            nonlocal runs
            runs += 1
            raise RuntimeError("odd")

        schedule = Schedule(probe, lambda *_: None, 1)
        schedule.start()
        schedule.add(A, MINUTE, 0)
        await asyncio.sleep(5 * MINUTE - 1)
        await schedule.stop()
        return runs

    assert run_simulated(work) == 5
    assert "odd" in caplog.text
