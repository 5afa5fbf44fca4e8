"""Turns: one probe at a time per target, and a limited number in all."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from support.probing import until

from exporter.errors import SkipReason
from exporter.plan import ModelKey
from exporter.probing.slots import Slot
from exporter.probing.turns import ProbeTurns

A, B, C, D = ModelKey("one", "a"), ModelKey("one", "b"), ModelKey("two", "c"), ModelKey("three", "d")
E = ModelKey("four", "e")


@dataclass
class Probes:
    """Probes that run until they are ended."""

    running: list[ModelKey] = field(default_factory=list)
    ran: list[ModelKey] = field(default_factory=list)
    slots: dict[ModelKey, Slot] = field(default_factory=dict)
    ends: dict[ModelKey, asyncio.Event] = field(default_factory=dict)

    async def probe(self, key: ModelKey, slot: Slot) -> None:
        """Run until `end`."""
        self.slots[key] = slot
        self.running.append(key)
        self.ran.append(key)
        self.ends[key] = asyncio.Event()
        try:
            await self.ends[key].wait()
        finally:
            self.running.remove(key)

    async def end(self, key: ModelKey) -> None:
        """End a running probe."""
        self.ends[key].set()
        await settle()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def probes() -> Probes:
    """Return the probes."""
    return Probes()


@pytest.fixture
async def turns(probes: Probes) -> AsyncIterator[ProbeTurns]:
    """Return turns for two probes at once."""
    turns = ProbeTurns(probes.probe, max_concurrent_probes=2)
    yield turns
    await turns.cancel_all()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time after which a probe gives back its slot."""
    monkeypatch.setattr("exporter.probing.slots.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("exporter.probing.slots.WAIT_SECONDS", 0.05)


async def start(turns: ProbeTurns, *keys: ModelKey) -> list[SkipReason | None]:
    """Start probes in this order and return why each was not started."""
    reasons = [turns.start(key) for key in keys]
    await settle()
    return reasons


async def test_probes_of_one_target_run_one_at_a_time(turns: ProbeTurns, probes: Probes) -> None:
    """The second model of a target runs when the first has ended."""
    assert await start(turns, A, B) == [None, None]
    assert probes.running == [A]

    await probes.end(A)

    assert probes.running == [B]


async def test_no_more_probes_run_at_once_than_allowed(turns: ProbeTurns, probes: Probes) -> None:
    """A probe that waits for its target does not take one of the slots."""
    await start(turns, A, B, C, D)
    assert probes.running == [A, C]

    await probes.end(C)

    assert probes.running == [A, D]


@pytest.mark.usefixtures("quick")
async def test_a_probe_whose_server_does_not_answer_gives_its_slot_back(turns: ProbeTurns, probes: Probes) -> None:
    """Its target still waits for it."""
    await start(turns, A, C, D, B)
    assert probes.running == [A, C]

    await until(lambda: probes.running == [A, C, D])

    assert B not in probes.running


@pytest.mark.usefixtures("quick")
async def test_a_probe_whose_answer_arrives_keeps_its_slot_or_takes_it_again(turns: ProbeTurns, probes: Probes) -> None:
    """The limit holds again as soon as enough probes have ended."""
    chunks = itertools.count()
    await start(turns, A, C)
    probes.slots[A].count_chunks = lambda: next(chunks)
    await start(turns, D)
    await until(lambda: probes.running == [A, C, D])
    probes.slots[D].count_chunks = lambda: next(chunks)
    probes.slots[C].count_chunks = lambda: next(chunks)
    await asyncio.sleep(0.2)
    await start(turns, E)
    assert E not in probes.running

    await probes.end(A)
    assert E not in probes.running
    await probes.end(C)
    assert E in probes.running


async def test_a_slot_that_is_given_to_a_cancelled_probe_passes_on(turns: ProbeTurns, probes: Probes) -> None:
    """Both happen in one step of the loop."""
    await start(turns, A, C, D, E)
    probes.ends[A].set()
    await asyncio.sleep(0)
    await turns.cancel([D])
    await settle()

    assert probes.running == [C, E]


async def test_a_model_due_again_while_its_probe_runs_overlaps(turns: ProbeTurns, probes: Probes) -> None:
    """It is not probed twice."""
    await start(turns, A)

    assert await start(turns, A) == [SkipReason.OVERLAP]

    await probes.end(A)
    assert probes.ran == [A]


@pytest.mark.parametrize("first", [(A,), (C, D)])
async def test_a_model_due_again_while_it_waits_is_late(
    turns: ProbeTurns, probes: Probes, first: tuple[ModelKey, ...]
) -> None:
    """It waits for another model of its target, or for a slot. Its previous probe never started."""
    await start(turns, *first, B)
    assert B not in probes.running

    assert await start(turns, B) == [SkipReason.LATE]

    await probes.end(first[0])
    assert probes.running.count(B) == 1


async def test_a_delayed_probe_overlaps_only_once_it_has_run_for_an_interval(turns: ProbeTurns, probes: Probes) -> None:
    """The first due time since its turn began is less than an interval after it."""
    await start(turns, A, B)
    await probes.end(A)
    assert probes.running == [B]

    assert await start(turns, B) == [SkipReason.LATE]
    assert await start(turns, B) == [SkipReason.OVERLAP]


async def test_a_model_can_be_probed_again_once_its_probe_has_ended(turns: ProbeTurns, probes: Probes) -> None:
    """The next due time starts it as the first did."""
    await start(turns, A)
    await probes.end(A)

    assert await start(turns, A) == [None]
    assert probes.ran == [A, A]


async def test_cancelling_ends_running_and_waiting_probes_of_these_models_only(
    turns: ProbeTurns, probes: Probes
) -> None:
    """A probe that was waiting never runs, and the turn passes on."""
    await start(turns, A, B, C, D)

    await turns.cancel([A, B])
    await settle()

    assert probes.running == [C, D]
    assert B not in probes.ran


async def test_a_probe_cancelled_before_its_first_step_leaves_nothing_behind(turns: ProbeTurns, probes: Probes) -> None:
    """Its model can be started again."""
    turns.start(A)
    await turns.cancel([A])

    assert probes.ran == []
    assert await start(turns, A) == [None]
    assert probes.running == [A]


async def test_an_unhandled_error_is_logged_and_frees_the_turn(caplog: pytest.LogCaptureFixture) -> None:
    """It must not stop the probes of the target."""

    async def probe(_: ModelKey, __: Slot) -> None:
        raise RuntimeError("odd")

    turns = ProbeTurns(probe, max_concurrent_probes=1)
    for key in (A, B, A):
        assert await start(turns, key) == [None]

    assert [record.__dict__["fields"]["model"] for record in caplog.records] == ["a", "b", "a"]
    assert "odd" in caplog.text


async def test_locks_of_targets_that_are_gone_are_dropped(turns: ProbeTurns, probes: Probes) -> None:
    """A reload may replace every target."""
    await start(turns, A, B)
    assert list(turns._target_locks) == ["one"]

    await turns.cancel([A, B])
    await settle()
    gc.collect()

    assert probes.running == []
    assert list(turns._target_locks) == []
